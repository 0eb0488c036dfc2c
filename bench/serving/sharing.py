"""What sharing costs where nothing is shared: pairs of runs, in turn, on two daemons that run side by side."""

from serving.setup import MODES, markdown, median, median_interval, process_cpu_s

PAIRS = 24
LOAD = ["--streams", 8, "--requests", 24, "--prompt-len", 1000, "--output-len", 8]


def run(bench, daemon, mode, seed):
    before = process_cpu_s(daemon.process.pid)
    load = bench.semcache(daemon, "bench serve", *LOAD, "--kv", mode, "--seed", seed)
    return {"tokens_per_s": load["prompt_tokens_per_s"], "cpu_s": process_cpu_s(daemon.process.pid) - before,
            "hit_rate": load["hit_rate"]}


def measure(bench):
    daemons = {on: bench.daemon(kv__memory="128MiB", kv__sharing=str(on).lower()) for on in (True, False)}
    modes = {mode: [] for mode in MODES}
    for number in range(-1, PAIRS): # the first fills the cache and warms up
        for mode in MODES:
            pair, seed = {}, bench.seed + 1000 * (number + 1)
            for on in (True, False) if number % 2 else (False, True):
                pair["on" if on else "off"] = run(bench, daemons[on], mode, seed + (0 if mode == "exact" else 500))
            if number >= 0:
                modes[mode].append(pair)
    return {"modes": modes}


def ratios(pairs):
    """Over 1: sharing costs time."""
    return {"wall": [p["off"]["tokens_per_s"] / p["on"]["tokens_per_s"] for p in pairs],
            "cpu": [p["on"]["cpu_s"] / p["off"]["cpu_s"] for p in pairs]}


def percent(values):
    low, high = median_interval(values)
    return f"{100 * (median(values) - 1):+.2f} % ({100 * (low - 1):+.2f} to {100 * (high - 1):+.2f})"


def table(result):
    rows = []
    for mode, pairs in result["modes"].items():
        r = ratios(pairs)
        rate = median([p["on"]["tokens_per_s"] for p in pairs])
        rows.append((mode.upper(), len(pairs), f"{max(p['on']['hit_rate'] for p in pairs):.1%}", f"{rate:.0f}",
                     percent(r["wall"]), percent(r["cpu"])))
    head = ("mode", "pairs", "hits", "prompt tokens/s with sharing", "time it costs: median (95 % interval)",
            "processor time it costs")
    return markdown(head, rows)


def plot(result, figure):
    axes = figure.subplots(1, 2)
    for ax, key, title in zip(axes, ("wall", "cpu"), ("time", "processor time")):
        values = [[100 * (v - 1) for v in ratios(pairs)[key]] for pairs in result["modes"].values()]
        ax.boxplot(values)
        ax.set_xticks([1, 2], [m.upper() for m in result["modes"]])
        ax.axhline(0, color="0.7", linewidth=0.8)
        ax.axhline(1, color="C3", linewidth=0.8, linestyle="--")
        ax.set(title=f"{title} with sharing against without", ylabel="%, each pair of runs; dashed: the target")
