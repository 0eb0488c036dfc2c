"""1000 streams at once, some cancelled, some with a deadline, all read slowly: gaps, memory, pages over time."""

import json
import subprocess
import time

import harness
from serving.client import ask
from serving.setup import loads, markdown, process_status

LOAD = ["--streams", 1000, "--prompt-len", "320-1500", "--shared-prefix", 300, "--output-len", "4-48",
        "--cancel-percent", 10, "--deadline-percent", 10, "--deadline-ms", "1000-60000", "--slow-reader-ms", 1]
MEMORY = "640MiB"
# The one that is reported, and others of one request a stream: after each the daemon is idle, and what its heap
# holds then must not grow. What is made once at first use is there after the first.
WAVES = ("before", "reported", "after", "after")
WAVE_REQUESTS, SETTLED_S = 1000, 2
MIB = 2**20


def touch_all_pages(bench, daemon):
    """The pool's pages are the operating system's until they are written."""
    while loads(daemon).pages_free > loads(daemon).pages_total // 50:
        ask(daemon, bench.tokens(8192), 1, "exact")


def sample(daemon, begin):
    now = loads(daemon)
    return {"s": round(time.monotonic() - begin, 1), "rss": process_status(daemon.process.pid, "VmRSS"), "free": now.pages_free,
            "cached": now.pages_cached, "running": now.running, "waiting": now.waiting}


def slope(samples):
    """Least squares, bytes a minute."""
    n = len(samples)
    x, y = [s["s"] / 60 for s in samples], [s["rss"] for s in samples]
    mx, my = sum(x) / n, sum(y) / n
    return sum((a - mx) * (b - my) for a, b in zip(x, y)) / sum((a - mx) ** 2 for a in x)


def idle(daemon, heap_log):
    """Waits until nothing runs; what is left then."""
    end = time.monotonic() + 60
    while (now := loads(daemon)).running + now.waiting > 0 and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(SETTLED_S)
    in_use, in_arenas = (int(n) for n in heap_log.read_text().splitlines()[-2].split()[:2])
    return {"running": now.running, "waiting": now.waiting, "pages_total": now.pages_total, "pages_free": now.pages_free,
            "pages_cached": now.pages_cached, "rss": process_status(daemon.process.pid, "VmRSS"), "heap_in_use": in_use,
            "heap_free": in_arenas}


def wave(bench, daemon, amount, seed):
    command = bench.semcache_command(daemon, "bench serve", "--json", *LOAD, *amount, "--seed", seed)
    begin = time.monotonic()
    samples = [sample(daemon, begin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            time.sleep(0.5)
            samples.append(sample(daemon, begin))
        return json.loads(process.stdout.read()), samples


def measure(bench):
    seconds, heap_log = bench.args.crowd_seconds, bench.folder / "heap"
    daemon = bench.daemon(kv__memory=MEMORY, heap_log=heap_log)
    touch_all_pages(bench, daemon)
    result = {"seconds": seconds, "waves": []}
    for number, which in enumerate(WAVES):
        amount = ["--duration", seconds] if which == "reported" else ["--requests", WAVE_REQUESTS]
        load, samples = wave(bench, daemon, amount, bench.seed + number)
        result["waves"].append({"requests": load["started"], "failed": load["failed"], **idle(daemon, heap_log)})
        if which == "reported":
            rss = [s["rss"] for s in samples if s["s"] <= seconds]
            result.update(load=load, samples=samples, rss_slope_bytes_per_min=slope([s for s in samples if s["s"] <= seconds]),
                          rss_range=[min(rss), max(rss)])
    result["flushed"] = daemon.client.control.FlushCache(harness.control.FlushCacheRequest(), timeout=60).pages_freed
    result["pages_free_then"] = loads(daemon).pages_free
    return result


def table(result):
    load, gap = result["load"], result["load"]["gap_ms"]
    first = markdown(
        ("completed", "cancelled as asked", "deadlines set", "ended at them", "failed", "token gap p50 / p90 / p99 / max",
         "TTFT p50 (mostly the queue)", "end after its deadline, p99"),
        [(load["completed"], load["cancelled"], load["deadlines"], load["expired"], load["failed"],
          " / ".join(f"{gap[k]:.1f}" for k in ("p50", "p90", "p99", "max")) + " ms", f"{load['ttft_ms']['p50'] / 1e3:.1f} s",
          f"{load['past_deadline_ms']['p99']:.1f} ms")])
    low, high = (r / MIB for r in result["rss_range"])
    while_running = (f"Resident memory while these ran: {low:.1f} to {high:.1f} MiB, "
                     f"{result['rss_slope_bytes_per_min'] / MIB:+.2f} MiB/min. Idle after each wave of 1000 streams:")
    rows, before = [], None
    for w in result["waves"]:
        change = "" if before is None else f"{(w['heap_in_use'] - before) / 1024:+.1f} KiB"
        before = w["heap_in_use"]
        rows.append((w["requests"], w["failed"], f"{w['heap_in_use'] / MIB:.3f} MiB", change, f"{w['rss'] / MIB:.1f} MiB",
                     f"{w['pages_free']} + {w['pages_cached']} of {w['pages_total']}"))
    second = markdown(("requests", "failed", "heap in use", "change", "resident", "pages free + cached of all"), rows)
    flushed = f"Pages free after a flush at the end: {result['pages_free_then']}."
    return "\n\n".join([first, while_running, second, flushed])


def plot(result, figure):
    axes = figure.subplots(1, 3)
    t = [s["s"] for s in result["samples"]]
    axes[0].plot(t, [s["rss"] / MIB for s in result["samples"]])
    axes[0].set(title="pool of 640 MiB touched before", xlabel="seconds", ylabel="resident memory, MiB", ylim=(0, None))
    waves = result["waves"]
    axes[1].plot(range(1, len(waves) + 1), [w["heap_in_use"] / MIB for w in waves], "o-")
    axes[1].set(title="idle after each wave", xlabel="waves", ylabel="heap in use, MiB", ylim=(0, None),
                xticks=range(1, len(waves) + 1))
    total = waves[0]["pages_total"]
    used = [total - s["free"] - s["cached"] for s in result["samples"]]
    axes[2].stackplot(t, used, [s["cached"] for s in result["samples"]], [s["free"] for s in result["samples"]],
                      labels=["of running requests", "cached", "free"], colors=["C0", "C1", "0.9"])
    axes[2].set(title="KV pages", xlabel="seconds", ylabel="pages")
    axes[2].legend(loc="center right", fontsize="small")
