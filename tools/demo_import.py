#!/usr/bin/env python3
"""Makes a model directory of what tools/train_demo.py leaves: weights in two files, and the tokenizer that was used.

    python3 tools/demo_import.py --weights DIR --out models/demo
"""

import argparse
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import demo_model as model  # noqa: E402


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--weights", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--tokenizer", help="directory of tokenizer.json; by default --out")
    args = ap.parse_args()
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    p = {}
    for part in "ab":
        p.update(load_file(os.path.join(args.weights, "weights-%s.safetensors" % part)))
    want = {k: v.shape for k, v in model.unstack(model.init_params(0)).items()}
    if {k: v.shape for k, v in p.items()} != want:
        sys.exit("the weights are not of the model in demo_model.py")
    tok = Tokenizer.from_file(os.path.join(args.tokenizer or args.out, "tokenizer.json"))
    model.export(p, tok, args.out, "%d parameters" % sum(v.numel() for v in p.values()))


if __name__ == "__main__":
    main()
