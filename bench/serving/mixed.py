"""Requests that meet on a warm prefix, a prompt that comes while others are answered; llama-server beside."""

import time

from serving import llama
from serving.client import ask, together
from serving.setup import MODES, markdown, median

ROUNDS, WARM, STEP_TOKENS = 3, 5, 64
FIGURES = {
    "crowd_p50_s": "8 at once on one warm 2K prefix: TTFT p50",
    "crowd_max_s": "the same: slowest TTFT",
    "stall_s": "longest stall of a stream while another prompt of 2K tokens is read",
    "late_s": "TTFT of that prompt",
    "cold_s": "8K prefix and 32 new tokens: TTFT cold",
    "warm_s": "the same warm",
}


def once(tokens, asks):
    """asks(ids, n): seconds to the first of n tokens, and the gaps between them."""
    prefix, said = tokens(2048), {}
    asks(prefix + tokens(8), 1)
    times = sorted(a.ttft for a in together([lambda p=prefix + tokens(32): asks(p, 16) for _ in range(8)]))
    said["crowd_p50_s"], said["crowd_max_s"] = median(times), times[-1]

    def late():
        time.sleep(0.3)
        return asks(tokens(2048), 1)

    running, other = together([lambda p=tokens(64): asks(p, 220), late])
    said["stall_s"], said["late_s"] = max(running.gaps), other.ttft
    prefix = tokens(8192)
    said["cold_s"] = asks(prefix + tokens(32), 1).ttft
    said["warm_s"] = median([asks(prefix + tokens(32), 1).ttft for _ in range(WARM)])
    return said


def several(tokens, asks):
    rounds = [once(tokens, asks) for _ in range(ROUNDS)]
    return {key: [r[key] for r in rounds] for key in FIGURES}


def measure(bench):
    servers = {}
    for mode in MODES:
        daemon = bench.daemon(bench.model("0.1B"), kv__memory="1GiB", engine__prefill_tokens=STEP_TOKENS)
        servers[mode.upper()] = several(bench.tokens, lambda ids, n, d=daemon, m=mode: ask(d, ids, n, m))
        daemon.stop()
    if bench.args.llama_server:
        for name, options in llama.SETTINGS.items():
            with llama.Server(bench, options) as server:
                servers[name] = several(bench.tokens, server.ask)
    return {"servers": servers}


def table(result):
    servers = result["servers"]
    head = ["median of 3 rounds, seconds", *servers]
    rows = [[what, *(f"{median(s[key]):.3f}" for s in servers.values())] for key, what in FIGURES.items()]
    lines = [markdown(head, rows)]
    others = [n for n in servers if n not in ("EXACT", "COMPRESSED")]
    if others:
        ratios = []
        for key in ("crowd_p50_s", "stall_s", "warm_s"):
            best = min(median(servers[n][key]) for n in others)
            ratios.append([FIGURES[key], *(f"{best / median(servers[m.upper()][key]):.1f}" for m in MODES)])
        lines += ["\nThe best of llama-server's columns over ours:\n", markdown(["", "EXACT", "COMPRESSED"], ratios)]
    return "\n".join(lines)


def plot(result, figure):
    axes = figure.subplots(1, 3)
    servers = result["servers"]
    for ax, (key, title) in zip(axes, (("crowd_p50_s", "8 at once, warm 2K prefix:\nmedian TTFT"),
                                       ("stall_s", "longest stall while\n2K tokens are read"),
                                       ("warm_s", "warm 8K prefix + 32:\nTTFT"))):
        ax.bar(range(len(servers)), [median(s[key]) for s in servers.values()],
               color=[f"C{i}" for i in range(len(servers))])
        ax.set(title=title, ylabel="seconds (log)", yscale="log")
        ax.set_xticks(range(len(servers)), servers, rotation=20, ha="right")
