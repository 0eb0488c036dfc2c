"""How long the prefix tree takes to find where a prompt begins, however many others it holds."""

import subprocess

from serving.setup import markdown

CASES = ("hit", "branch", "miss", "key")


def measure(bench):
    said = subprocess.run([bench.bin / "bench-prefix-lookup"], stdout=subprocess.PIPE, text=True, check=True).stdout
    rows = []
    for line in said.splitlines()[2:]:
        cells = [float(c) for c in line.split()]
        pairs = zip(CASES, cells[3::2], cells[4::2])
        rows.append({"tokens": int(cells[0]), "others": int(cells[1]),
                     **{case: {"median_us": m, "slowest_us": s} for case, m, s in pairs}})
    return {"rows": rows}


def table(result):
    head = ("other prompts", "whole prompt of 100,000 tokens found", "left half way", "nothing known", "key alone")
    rows = [(f"{r['others']:,}", *(f"{r[c]['median_us']:.1f} µs" for c in CASES)) for r in result["rows"]]
    return markdown(head, rows)


def plot(result, figure):
    ax = figure.subplots()
    for case, name in zip(CASES[:3], ("whole prompt found", "left half way", "nothing known")):
        ax.plot([max(r["others"], 1) for r in result["rows"]], [r[case]["median_us"] for r in result["rows"]], "o-",
                label=name)
    ax.set(title="a prompt of 100,000 tokens, median of 101", xlabel="other prompts in the tree (log)",
           ylabel="µs (log)", xscale="log", yscale="log")
    ax.legend()
