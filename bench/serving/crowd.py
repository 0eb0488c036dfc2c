"""1000 streams at once, some cancelled, some with a deadline, all read slowly: gaps, memory, pages over time."""

import json
import subprocess
import time

import harness
from serving.client import ask
from serving.setup import loads, markdown, median, process_status

LOAD = ["--streams", 1000, "--prompt-len", "320-1500", "--shared-prefix", 300, "--output-len", "4-48",
        "--cancel-percent", 10, "--deadline-percent", 10, "--deadline-ms", "1000-60000", "--slow-reader-ms", 1]
# What grows to a fixed size, as the stores of the tree of prefixes, has mostly done so after WARM_UP_S.
MEMORY, WARM_UP_S = "640MiB", 60
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


def measure(bench):
    daemon = bench.daemon(kv__memory=MEMORY)
    start_rss = process_status(daemon.process.pid, "VmRSS")
    touch_all_pages(bench, daemon)
    seconds = bench.args.crowd_seconds
    command = bench.semcache_command(daemon, "bench serve", "--json", *LOAD, "--duration", seconds, "--seed", bench.seed)
    begin = time.monotonic()
    samples = [sample(daemon, begin)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.poll() is None:
            time.sleep(1)
            samples.append(sample(daemon, begin))
        load = json.loads(process.stdout.read())
    idle = begin_idle = time.monotonic()
    while loads(daemon).running + loads(daemon).waiting > 0 and idle - begin_idle < 60:
        time.sleep(0.01)
        idle = time.monotonic()
    after = loads(daemon)
    flushed = daemon.client.control.FlushCache(harness.control.FlushCacheRequest(), timeout=60).pages_freed
    warm_up = min(WARM_UP_S, seconds / 2)
    steady = [s for s in samples if warm_up <= s["s"] <= seconds]
    return {
        "seconds": seconds,
        "warm_up_s": warm_up,
        "load": load,
        "samples": samples,
        "start_rss": start_rss,
        "steady": {"rss_slope_bytes_per_min": slope(steady), "rss_median": median([s["rss"] for s in steady]),
                   "rss_range": [min(s["rss"] for s in steady), max(s["rss"] for s in steady)]},
        "after": {"running": after.running, "waiting": after.waiting, "pages_total": after.pages_total,
                  "pages_free": after.pages_free, "pages_cached": after.pages_cached, "idle_after_s": idle - begin_idle,
                  "flushed": flushed, "pages_free_then": loads(daemon).pages_free},
    }


def table(result):
    load, steady, after = result["load"], result["steady"], result["after"]
    gap = load["gap_ms"]
    first = markdown(
        ("completed", "cancelled as asked", "deadlines set", "ended at them", "failed", "token gap p50 / p90 / p99 / max",
         "TTFT p50 (mostly the queue)", "end after its deadline, p99"),
        [(load["completed"], load["cancelled"], load["deadlines"], load["expired"], load["failed"],
          " / ".join(f"{gap[k]:.1f}" for k in ("p50", "p90", "p99", "max")) + " ms", f"{load['ttft_ms']['p50'] / 1e3:.1f} s",
          f"{load['past_deadline_ms']['p99']:.1f} ms")])
    second = markdown(
        ("", "resident memory, median", "lowest / highest", "slope", "pages free + cached of all at the end",
         "free after a flush"),
        [(f"from {result['warm_up_s']:.0f} to {result['seconds']:.0f} s",
          f"{steady['rss_median'] / MIB:.1f} MiB", " / ".join(f"{r / MIB:.1f}" for r in steady["rss_range"]) + " MiB",
          f"{steady['rss_slope_bytes_per_min'] / MIB:+.2f} MiB/min",
          f"{after['pages_free']} + {after['pages_cached']} of {after['pages_total']}",
          f"{after['pages_free_then']}")])
    return first + "\n\n" + second


def plot(result, figure):
    axes = figure.subplots(1, 2)
    t = [s["s"] for s in result["samples"]]
    axes[0].plot(t, [s["rss"] / MIB for s in result["samples"]])
    axes[0].set(title="daemon, pool of 640 MiB touched before", xlabel="seconds", ylabel="resident memory, MiB",
                ylim=(0, None))
    total = result["after"]["pages_total"]
    used = [total - s["free"] - s["cached"] for s in result["samples"]]
    axes[1].stackplot(t, used, [s["cached"] for s in result["samples"]], [s["free"] for s in result["samples"]],
                      labels=["of running requests", "cached", "free"], colors=["C0", "C1", "0.9"])
    axes[1].set(title="KV pages", xlabel="seconds", ylabel="pages")
    axes[1].legend(loc="center right")
