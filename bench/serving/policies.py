"""Where requests go in a cluster of 500 groups: the real scheduler on a cost model, simulated."""

import json
import subprocess

from serving.setup import markdown

OPTIONS = ["--groups", 500, "--rate", 10000, "--seconds", 5, "--documents", 1000000, "--doc-len", 1024, "--zipf", 1,
           "--check"]
ROUTERS = {"random": "by chance", "prefix": "hash of the document", "bounded": "hash, moving on where too many wait"}
MODES = ("exact", "compressed")


def measure(bench):
    modes = {mode: {} for mode in MODES}
    for mode in MODES:
        for router in ROUTERS:
            command = [bench.bin / "bench-simulate", "--json", *OPTIONS, "--router", router, "--kv", mode]
            done = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True)
            modes[mode][router] = json.loads(done.stdout)[0]
    return {"modes": modes}


def table(result):
    rows = []
    for mode, routers in result["modes"].items():
        for router, r in routers.items():
            times = " / ".join(f"{t:.0f}" for t in r["ttft_ms"])
            rows.append((mode.upper(), ROUTERS[router], f"{r['hit_percent']:.1f} %", times + " ms", r["served"],
                         f"{r['wall_s']:.1f} s"))
    return markdown(("mode", "router", "hit rate", "TTFT p50 / p90 / p99", "served", "wall time"), rows)


def plot(result, figure):
    axes = figure.subplots(1, 2)
    for ax, (mode, routers) in zip(axes, result["modes"].items()):
        for router, r in routers.items():
            ax.plot([50, 90, 99], r["ttft_ms"], "o-", label=f"{ROUTERS[router]} ({r['hit_percent']:.0f} % hits)")
        ax.set(title=f"{mode.upper()}, simulated", xlabel="percentile of requests", ylabel="time to first token, ms (log)",
               yscale="log", xticks=[50, 90, 99])
        ax.legend(fontsize="small")
