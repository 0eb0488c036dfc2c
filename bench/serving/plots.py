#!/usr/bin/env python3
"""Draws FOLDER/NAME.svg of each FOLDER/NAME.json: plots.py FOLDER. Needs matplotlib and nothing else."""

import importlib
import json
import pathlib
import sys
import types

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
# Results are drawn where no gRPC is: what only measuring needs is not there.
sys.modules["harness"] = types.ModuleType("harness")
sys.modules["harness"].common = types.SimpleNamespace(KV_MODE_EXACT=0, KV_MODE_COMPRESSED=0)

import matplotlib  # noqa: E402

matplotlib.use("svg")
# The same results give the same file; text stays text.
matplotlib.rcParams.update({"svg.hashsalt": "serving", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False, "axes.titlesize": "medium"})
from matplotlib.figure import Figure  # noqa: E402


def main(folder):
    for file in sorted(folder.glob("*.json")):
        scenario = importlib.import_module(f"serving.{file.stem}")
        figure = Figure(figsize=(8, 3.2), layout="constrained")
        figure.patch.set_facecolor("white")
        scenario.plot(json.loads(file.read_text()), figure)
        figure.savefig(file.with_suffix(".svg"), metadata={"Date": None})
        print(file.with_suffix(".svg"))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
