"""What sharing costs where nothing is shared: the scheduler's own time, and snapshots that nobody will ask for."""

import json
import subprocess

from serving.setup import DEMO, MODES, markdown, median, median_interval

ROUNDS = 5
# The pool holds a few times as many prompts as run at once: full after the first of them.
LOADS = {
    "8 streams, prompts of 1000": ["--streams", 8, "--requests", 64, "--prompt", 1000, "--output", 8, "--pool", 24],
    "1 stream, prompts of 500": ["--streams", 1, "--requests", 64, "--prompt", 500, "--output", 4, "--pool", 3],
}


def run(bench, load, mode, sharing):
    command = [bench.bin / "bench-sharing-cost", "--model", DEMO, "--kv", mode, "--sharing", str(sharing).lower(), *LOADS[load]]
    return json.loads(subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, check=True).stdout)


def measure(bench):
    cases = {load: {mode: {"on": [], "off": []} for mode in MODES} for load in LOADS}
    for number in range(ROUNDS):
        for load, modes in cases.items():
            for mode, case in modes.items():
                for which in ("on", "off") if number % 2 else ("off", "on"):
                    case[which].append(run(bench, load, mode, which == "on"))
    return {"cases": cases}


def scheduler_share(r):
    """All that the scheduler's thread does, sharing or not, of all processor time."""
    return r["scheduler_s"] / r["cpu_s"]


def snapshot_share(r):
    return r["kept"] * r["keep_s"] / r["cpu_s"]


def percent(values):
    return f"{100 * median(values):.2f} %"


def table(result):
    rows = []
    for load, modes in result["cases"].items():
        for mode, case in modes.items():
            on, off = case["on"], case["off"]
            low, high = median_interval([a["cpu_s"] / b["cpu_s"] - 1 for a, b in zip(on, off)])
            rows.append((load, mode.upper(), sum(r["cached_tokens"] for r in on), f"{on[0]['steps']} / {off[0]['steps']}",
                         percent(list(map(scheduler_share, off))), percent(list(map(scheduler_share, on))),
                         percent(list(map(snapshot_share, on))),
                         percent([scheduler_share(r) + snapshot_share(r) for r in on]),
                         f"{100 * low:+.1f} to {100 * high:+.1f} %"))
    head = ("load", "mode", "tokens found", "steps with / without", "whole scheduler without", "with",
            "snapshots kept and dropped", "the last two: more than sharing costs", "difference of all time, 95 %")
    return markdown(head, rows)


def plot(result, figure):
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (load, modes) in zip(axes, result["cases"].items()):
        for i, case in enumerate(modes.values()):
            off, on = ([100 * scheduler_share(r) for r in case[which]] for which in ("off", "on"))
            snapshots = [100 * snapshot_share(r) for r in case["on"]]
            ax.bar(3 * i, median(off), color="C1", label="scheduler without sharing" if i == 0 else None)
            ax.bar(3 * i + 1, median(on), color="C0", label="scheduler with sharing" if i == 0 else None)
            ax.bar(3 * i + 1, median(snapshots), bottom=median(on), color="C2", label="snapshots" if i == 0 else None)
            ax.plot([3 * i] * len(off) + [3 * i + 1] * len(on), off + on, "k.", markersize=3)
        ax.axhline(1, color="C3", linewidth=0.8, linestyle="--", label="target for what sharing adds")
        ax.set_xticks([0.5, 3.5], [m.upper() for m in modes])
        ax.set(title=load, ylabel="% of all processor time")
    axes[0].legend(fontsize="small")
