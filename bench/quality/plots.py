#!/usr/bin/env python3
"""Draws FOLDER/kept.svg and FOLDER/depth.svg of FOLDER/results.json: plots.py FOLDER. Needs matplotlib."""

import json
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import matplotlib  # noqa: E402

matplotlib.use("svg")
# The same results give the same file; text stays text.
matplotlib.rcParams.update({"svg.hashsalt": "quality", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False, "axes.titlesize": "medium"})
from matplotlib.figure import Figure  # noqa: E402

from quality.runner import family, of_documents, pooled  # noqa: E402


def figure_of(height):
    figure = Figure(figsize=(8, height), layout="constrained")
    figure.patch.set_facecolor("white")
    return figure


def save(figure, file):
    figure.savefig(file, metadata={"Date": None})
    print(file)


def kept(results, file):
    """A panel for each family of tasks: a line for us, and one for each peer."""
    figure = figure_of(3.2)
    names = list(dict.fromkeys(family(t["task"]) for t in results["main"]["exact"]["tasks"]))
    axes = figure.subplots(1, len(names), sharey=True)
    lines = {"ours": list(results["main"].values())}
    if "peers" in results:  # on the same documents
        lines["ours"] = [of_documents(row, results["peers"]["documents"]) for row in lines["ours"]]
    lines |= {name: list(rows.values()) for name, rows in results.get("peers", {}).get("rows", {}).items()}
    for axis, name in zip(axes, names):
        for label, rows in lines.items():
            points = sorted((p["kept"], p["right"] / p["asked"]) for p in (
                pooled(row, lambda task, name=name: family(task) == name) for row in rows) if p)
            axis.plot(*zip(*points), marker="o", markersize=4, label=label, linewidth=2 if label == "ours" else 1,
                      color="black" if label == "ours" else None)
        axis.set_title(name)
        axis.set_xlabel("kept entries, all counted")
        axis.set_xlim(0, 1.03)
        axis.set_ylim(0, 1.03)
    axes[0].set_ylabel("exact match")
    axes[0].legend(frameon=False, fontsize=7)
    save(figure, file)


def depth(results, file):
    """Heat maps of exact match, depth by length; one for each ratio."""
    rows = results["main"]
    figure = figure_of(2.8)
    axes = figure.subplots(1, len(rows), sharey=True)
    image = None
    for axis, (name, row) in zip(axes, rows.items()):
        cells = [c for c in row["cells"] if c["depth"] is not None]
        lengths = sorted({c["length"] for c in cells})
        grid = [[float("nan")] * len(lengths) for _ in range(10)]
        for d in range(10):
            for i, length in enumerate(lengths):
                here = [c for c in cells if c["depth"] == d and c["length"] == length]
                if here:
                    grid[d][i] = sum(c["right"] for c in here) / sum(c["asked"] for c in here)
        image = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        axis.set_xticks(range(len(lengths)), [f"{n // 1024}K" for n in lengths])
        axis.set_title("full cache" if name == "exact" else f"target {name}")
        axis.set_xlabel("document")
    axes[0].set_ylabel("depth, tenths")
    figure.colorbar(image, ax=axes, label="exact match")
    save(figure, file)


def main(folder):
    results = json.loads((folder / "results.json").read_text())
    kept(results, folder / "kept.svg")
    depth(results, folder / "depth.svg")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
