#!/usr/bin/env python3
"""Finds how the entries are best shared out among a model's layers: the layer_weights of its calibration file.

    bench/layer_weights.py --build build/cpu --model models/demo --ratio 0.2

Coordinate descent on the KL to the full cache. Each trial multiplies the weight of one layer, asks the questions of a
suite (bench/quality_suites.py; or --suite FILE) with a calibration file that has those weights, and keeps the change
where KL falls. The mean share of the layers stays --ratio, so all trials keep as many entries. The answer is
printed as an option of semanticache-calibrate. The suite is of wordings the model was trained with, and of another seed
than any that is reported.
"""

import argparse
import json
import pathlib
import sys
import tempfile

sys.dont_write_bytecode = True
SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "bench"))
import quality_suites  # noqa: E402
from quality.rows import compressed  # noqa: E402
from quality.runner import Daemon  # noqa: E402

TASKS = "niah_multivalue_seen,document_qa_seen,two_hop_seen,plain_facts"
FILE = "semanticache-calibration.json"
LEAST, MOST = 0.01, 100.0


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build" / "cpu")
    parser.add_argument("--model", type=pathlib.Path, default=SOURCE / "models" / "demo")
    parser.add_argument("--suite", type=pathlib.Path, help="JSON Lines of quality_suites.py; default: one made here")
    parser.add_argument("--tasks", default=TASKS)
    parser.add_argument("--length", type=int, default=4096)
    parser.add_argument("--documents", type=int, default=2, help="of each task")
    parser.add_argument("--seed", type=int, default=303)
    parser.add_argument("--ratio", type=float, default=0.2)
    parser.add_argument("--start", help="weights to begin with; default: those of the model's file")
    parser.add_argument("--steps", default="4,2,1.4", help="factors, from coarse to fine")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("options", nargs="*", help="of semcache bench quality, behind --")
    return parser.parse_args()


class Trials:
    def __init__(self, args, folder):
        self.args, self.folder, self.done = args, folder, {}
        self.calibration = json.loads((args.model / FILE).read_text())
        self.calibration.pop("digest", None)
        self.calibration["exact_layers"] = []
        self.suite = args.suite or folder / "suite.jsonl"
        if not args.suite:
            entries = quality_suites.generate(args.tasks.split(","), [args.length], args.documents, args.seed, ask_all=True)
            self.suite.write_text("".join(json.dumps(e) + "\n" for e in entries))
        self.copy = folder / "model"
        self.copy.mkdir()
        for file in args.model.resolve().iterdir():
            if file.name != FILE:
                (self.copy / file.name).symlink_to(file)

    def kl(self, weights):
        key = tuple(round(w, 3) for w in weights)
        if key not in self.done:
            (self.copy / FILE).write_text(json.dumps({**self.calibration, "layer_weights": key}))
            with Daemon(self.args.build, self.copy, self.args.threads) as daemon:
                total = daemon.quality(self.suite, compressed(self.args.ratio, self.args.options))["total"]
            self.done[key] = total["exact"]["kl"]
            print(f"layer_weights: {','.join(map(str, key))}: KL {total['exact']['kl']:.4f}, "
                  f"{total['right']} of {total['asked']} right, kept {total['kept']['share']:.3f}", flush=True)
        return self.done[key]


def descend(trials, weights, steps):
    best = trials.kl(weights)
    for step in steps:
        better = True
        while better:
            better = False
            for layer in range(len(weights)):
                for factor in (step, 1 / step):
                    tried = [w * factor if i == layer else w for i, w in enumerate(weights)]
                    if LEAST <= tried[layer] <= MOST and trials.kl(tried) < best:
                        best, weights, better = trials.kl(tried), tried, True
                        break
    return weights


def main():
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="sc-layer-weights-") as folder:
        trials = Trials(args, pathlib.Path(folder))
        start = args.start.split(",") if args.start else trials.calibration.get("layer_weights", [1] * trials.calibration["n_layers"])
        found = descend(trials, [float(w) for w in start], [float(s) for s in args.steps.split(",")])
        print("--layer-weights " + ",".join(f"{w:.3g}" for w in found))


if __name__ == "__main__":
    main()
