"""What sharing costs where nothing is shared: runs in turn on two daemons, one that shares and one that does not."""

from serving.setup import MODES, loads, markdown, median, median_interval, process_cpu_s

ROUNDS = 14
ORDER = (True, False, False, True)  # what drifts hits both alike
LOADS = {
    "8 streams, prompts of 1000": ["--streams", 8, "--requests", 64, "--prompt-len", 1000, "--output-len", 8],
    "1 stream, prompts of 500": ["--streams", 1, "--requests", 64, "--prompt-len", 500, "--output-len", 4],
}


def run(bench, daemon, mode, load, seed):
    before, steps = process_cpu_s(daemon.process.pid), loads(daemon).steps
    said = bench.semcache(daemon, "bench serve", *LOADS[load], "--kv", mode, "--seed", seed)
    return {"wall_s": said["wall_s"], "cpu_s": process_cpu_s(daemon.process.pid) - before,
            "steps": loads(daemon).steps - steps, "tokens_per_s": said["prompt_tokens_per_s"],
            "hit_rate": said["hit_rate"]}


def measure(bench):
    cases, seed = {load: {mode: {"on": [], "off": []} for mode in MODES} for load in LOADS}, bench.seed * 100000
    for number in range(ROUNDS):
        # New ones each round: how fast a process is also depends on the memory it happened to get.
        order = ORDER if number % 2 else tuple(not on for on in ORDER)
        daemons = {on: bench.daemon(kv__memory="192MiB", kv__sharing=str(on).lower()) for on in order[:2]}
        for daemon in daemons.values():  # fills the pool
            bench.semcache(daemon, "bench serve", "--streams", 8, "--requests", 64, "--prompt-len", 1000,
                           "--output-len", 1, "--kv", "exact", "--seed", seed)
        for load in LOADS:
            for mode in MODES:
                for on in order:
                    seed += 1
                    cases[load][mode]["on" if on else "off"].append(run(bench, daemons[on], mode, load, seed))
        for daemon in daemons.values():
            daemon.kill()
    return {"cases": cases}


def ratios(case, key):
    """With sharing over without, of each round: its two runs of either kind together."""
    on, off = ([r[key] for r in case[which]] for which in ("on", "off"))
    return [(on[i] + on[i + 1]) / (off[i] + off[i + 1]) for i in range(0, len(on), 2)]


def percent(values):
    low, high = median_interval(values)
    return f"{100 * (median(values) - 1):+.2f} % ({100 * (low - 1):+.2f} to {100 * (high - 1):+.2f})"


def table(result):
    rows = []
    for load, modes in result["cases"].items():
        for mode, case in modes.items():
            rows.append((load, mode.upper(), f"{max(r['hit_rate'] for r in case['on']):.1%}",
                         f"{median([r['tokens_per_s'] for r in case['on']]):.0f}", percent(ratios(case, "wall_s")),
                         percent(ratios(case, "cpu_s")), f"{100 * (median(ratios(case, 'steps')) - 1):+.2f} %"))
    head = ("load", "mode", "hits", "prompt tokens/s", "time: median of rounds (95 % interval)", "processor time", "steps")
    return markdown(head, rows)


def plot(result, figure):
    axes = figure.subplots(1, 2)
    for ax, (load, modes) in zip(axes, result["cases"].items()):
        values = [[100 * (v - 1) for v in ratios(case, key)] for case in modes.values() for key in ("wall_s", "cpu_s")]
        ax.boxplot(values)
        names = [f"{mode.upper()}\n{what}" for mode in modes for what in ("time", "processor")]
        ax.set_xticks(range(1, len(names) + 1), names, fontsize="small")
        ax.axhline(0, color="0.7", linewidth=0.8)
        ax.axhline(1, color="C3", linewidth=0.8, linestyle="--")
        ax.set(title=load, ylabel="what sharing adds, %; dashed: the target")
