"""A question about the sample document: on a fresh daemon, and after a restart with the directory tier."""

import json
import time

from serving.setup import DEMO, MODES, loads, markdown, median

ROUNDS = 5
DOCUMENT = DEMO / "sample" / "document.txt"


def ttft_ms(bench, daemon, mode, *args):
    question = json.loads((DEMO / "sample" / "questions.json").read_text())[0]["q"]
    options = ["--kv", mode, "--prompt-format", DEMO / "prompt_format.json", *args, "--", question]
    reply = bench.semcache(daemon, "ask", *options)
    return reply["timings"]["ttft_us"] / 1e3


def wait_until_written(daemon):
    """The entries are written behind the answer's back."""
    held = -1
    while True:
        now = loads(daemon).store_bytes
        if now == held and now > 0:
            return now
        held = now
        time.sleep(0.3)


def measure(bench):
    modes = {}
    for mode in MODES:
        cold, after, stored = [], [], 0
        for number in range(ROUNDS):
            store, ids = (bench.folder / f"{mode}-{number}-{what}" for what in ("store", "ids"))
            for folder in (store, ids):
                folder.mkdir()
            settings = {"kv__memory": "640MiB", "store__dir": store, "documents__dir": ids}
            daemon = bench.daemon(**settings)
            cold.append(ttft_ms(bench, daemon, mode, "--document", DOCUMENT))
            bench.semcache(daemon, "ingest", "--kv", mode, "--id", "d", DOCUMENT)
            stored = wait_until_written(daemon)
            daemon.stop()
            daemon = bench.daemon(**settings)
            after.append(ttft_ms(bench, daemon, mode, "--doc", "d"))
            daemon.stop()
        modes[mode] = {"cold_ms": cold, "after_ms": after, "stored_bytes": stored}
    return {"modes": modes}


def table(result):
    head = ("mode", "TTFT on a fresh daemon", "TTFT after the restart", "times lower (median of rounds)", "stored")
    rows = []
    for mode, m in result["modes"].items():
        ratio = median([c / a for c, a in zip(m["cold_ms"], m["after_ms"])])
        rows.append((mode.upper(), f"{median(m['cold_ms']):.0f} ms", f"{median(m['after_ms']):.1f} ms", f"{ratio:.0f}",
                     f"{m['stored_bytes'] / 2**20:.1f} MiB"))
    return markdown(head, rows)


def plot(result, figure):
    axes = figure.subplots(1, 2)
    for ax, key, title in zip(axes, ("cold_ms", "after_ms"), ("fresh daemon", "after a restart, from the directory")):
        modes = result["modes"]
        ax.bar([m.upper() for m in modes], [median(m[key]) for m in modes.values()], color=["C0", "C1"])
        for i, m in enumerate(modes.values()):
            ax.plot([i] * len(m[key]), m[key], "k.", markersize=3)
        ax.set(title=title, ylabel="time to first token, ms", ylim=(0, None))
