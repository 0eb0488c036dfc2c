"""Decoding streams at once against one alone, on two shapes."""

from serving.client import ask, together
from serving.setup import MODES, markdown, median

PROMPT, TOKENS, COUNTS, ROUNDS = 32, 24, (1, 4, 16), {"0.1B": 5, "1B": 3}


def measure(bench):
    shapes = {}
    for shape, rounds in ROUNDS.items():
        daemon = bench.daemon(bench.model(shape), kv__memory="512MiB")
        shapes[shape] = {mode: {str(n): [] for n in COUNTS} for mode in MODES}
        for _ in range(rounds):
            for mode in MODES:
                for n in COUNTS:
                    jobs = [lambda p=bench.tokens(PROMPT), m=mode: ask(daemon, p, TOKENS, m) for _ in range(n)]
                    gaps = [sum(a.gaps) / len(a.gaps) for a in together(jobs)]
                    shapes[shape][mode][str(n)].append(n / median(gaps))
        daemon.stop()
    return {"shapes": shapes}


def table(result):
    rows = []
    for shape, modes in result["shapes"].items():
        for mode, rates in modes.items():
            many = [median(rates[str(n)]) for n in COUNTS]
            times = median([b / a for a, b in zip(rates[str(COUNTS[0])], rates[str(COUNTS[-1])])])
            rows.append((shape, mode.upper(), *(f"{r:.1f}" for r in many), f"{times:.2f}"))
    return markdown(("shape", "mode", *(f"{n} streams, tokens/s" for n in COUNTS), "16 against 1, times"), rows)


def plot(result, figure):
    axes = figure.subplots(1, 2)
    for ax, (shape, modes) in zip(axes, result["shapes"].items()):
        for mode, rates in modes.items():
            ax.plot(COUNTS, [median(rates[str(n)]) for n in COUNTS], "o-", label=mode.upper())
        ax.set(title=f"{shape} shape, bf16", xlabel="streams at once", ylabel="tokens/s, all together", ylim=(0, None),
               xticks=COUNTS)
        ax.legend()
