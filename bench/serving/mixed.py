"""Requests that meet on a warm prefix, a prompt that comes while others are answered; llama-server beside."""

import time

from serving import llama
from serving.client import ask, together
from serving.setup import MODES, markdown, median

ROUNDS, WARM, STEP_TOKENS = 3, 3, 64
FIGURES = {
    "crowd_p50_s": "8 at once on one warm 2K prefix: TTFT p50",
    "crowd_max_s": "the same: slowest TTFT",
    "again_p50_s": "8 more on that prefix: TTFT p50",
    "stall_s": "longest stall of a stream while another prompt of 2K tokens is read",
    "late_s": "TTFT of that prompt",
    "cold_s": "8K prefix and 32 new tokens: TTFT cold",
    "warm_s": "the same warm",
}


def once(tokens, asks, more_than_one):
    """asks(ids, n): seconds to the first of n tokens, and the gaps between them."""
    prefix, said = tokens(2048), {}
    asks(prefix + tokens(8), 1)
    times = sorted(a.ttft for a in together([lambda p=prefix + tokens(32): asks(p, 16) for _ in range(8)]))
    said["crowd_p50_s"], said["crowd_max_s"] = median(times), times[-1]

    times = [a.ttft for a in together([lambda p=prefix + tokens(32): asks(p, 16) for _ in range(8)])]
    said["again_p50_s"] = median(times)

    def late():
        time.sleep(0.3)
        return asks(tokens(2048), 1)

    if more_than_one:
        running, other = together([lambda p=tokens(64): asks(p, 220), late])
        said["stall_s"], said["late_s"] = max(running.gaps), other.ttft
    prefix = tokens(8192)
    said["cold_s"] = asks(prefix + tokens(32), 1).ttft
    said["warm_s"] = median([asks(prefix + tokens(32), 1).ttft for _ in range(WARM)])
    return said


def several(tokens, asks, rounds=ROUNDS, more_than_one=True):
    said = [once(tokens, asks, more_than_one) for _ in range(rounds)]
    return {key: [r[key] for r in said] for key in FIGURES if key in said[0]}


def measure(bench):
    servers = {}
    for mode in MODES:
        daemon = bench.daemon(bench.model("0.1B"), kv__memory="1GiB", engine__prefill_tokens=STEP_TOKENS)
        servers[mode.upper()] = several(bench.tokens, lambda ids, n, d=daemon, m=mode: ask(d, ids, n, m))
        daemon.stop()
    if bench.args.llama_server:
        for name, server in llama.servers(bench):
            servers[name] = several(bench.tokens, server.ask, 1, "-np 1" not in name)
            print(name, {key: round(median(values), 4) for key, values in servers[name].items()}, flush=True)
    return {"servers": servers, "llama": bench.llama_made()}


def table(result):
    servers = result["servers"]
    head = ["seconds", *(f"{name} ({len(s['warm_s'])})" for name, s in servers.items())]
    rows = [[what, *(f"{median(s[key]):.3f}" if key in s else "" for s in servers.values())]
            for key, what in FIGURES.items()]
    lines = [markdown(head, rows)]
    others = [n for n in servers if n not in ("EXACT", "COMPRESSED")]
    if others:
        ratios = []
        for key in ("crowd_p50_s", "again_p50_s", "stall_s", "warm_s"):
            best = min(median(servers[n][key]) for n in others if key in servers[n])
            ratios.append([FIGURES[key], *(f"{best / median(servers[m.upper()][key]):.1f}" for m in MODES)])
        lines += ["\nThe best of llama-server's columns over ours:\n", markdown(["", "EXACT", "COMPRESSED"], ratios)]
    return "\n".join(lines)


def plot(result, figure):
    axes = figure.subplots(1, 3, sharey=True)
    servers = result["servers"]
    for ax, (key, title) in zip(axes, (("crowd_p50_s", "8 at once, warm 2K prefix:\nmedian TTFT"),
                                       ("stall_s", "longest stall while\n2K tokens are read"),
                                       ("warm_s", "warm 8K prefix + 32:\nTTFT"))):
        ax.barh(list(servers), [median(s[key]) if key in s else 0 for s in servers.values()],
                color=[f"C{i}" for i in range(len(servers))])
        ax.set(title=title, xlabel="seconds (log)", xscale="log")
    axes[0].invert_yaxis()
