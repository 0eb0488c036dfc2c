"""A question on a prefix of 8192 tokens that was read before, against one that was not."""

from serving.client import ask
from serving.setup import MODES, markdown, median

PREFIX, QUESTION, COLD, WARM = 8192, 24, 5, 5


def measure(bench):
    daemon, modes = bench.daemon(kv__memory="640MiB"), {}
    for mode in MODES:
        cold, warm, final = [], [], None
        for _ in range(COLD):
            prefix = bench.tokens(PREFIX)
            cold.append(ask(daemon, prefix + bench.tokens(QUESTION), 8, mode).ttft)
            for _ in range(WARM):
                answer = ask(daemon, prefix + bench.tokens(QUESTION), 8, mode)
                warm.append(answer.ttft)
                final = answer.final
        modes[mode] = {
            "cold_s": cold,
            "warm_s": warm,
            "cached": final.usage.cached_tokens,
            "prompt": final.usage.prompt_tokens,
            "ratio": final.receipt.ratio,
        }
    return {"modes": modes}


def table_row(mode, m):
    cold, warm = median(m["cold_s"]), median(m["warm_s"])
    return (mode.upper(), f"{1e3 * cold:.0f} ms", f"{1e3 * warm:.1f} ms", f"{cold / warm:.0f}",
            f"{m['cached']} of {m['prompt']}", f"{m['ratio']:.3f}")


def table(result):
    head = ("mode", "TTFT cold", "TTFT warm", "times lower", "prompt tokens cached", "entries kept")
    return markdown(head, [table_row(mode, m) for mode, m in result["modes"].items()])


def plot(result, figure):
    axes = figure.subplots(1, 2)
    for ax, key, title in zip(axes, ("cold_s", "warm_s"), ("not read before", "read before")):
        modes = result["modes"]
        ax.bar([m.upper() for m in modes], [1e3 * median(m[key]) for m in modes.values()], color=["C0", "C1"])
        for i, m in enumerate(modes.values()):
            ax.plot([i] * len(m[key]), [1e3 * s for s in m[key]], "k.", markersize=3)
        ax.set(title=f"8K prefix, {title}", ylabel="time to first token, ms", ylim=(0, None))
