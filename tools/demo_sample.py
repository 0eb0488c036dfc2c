#!/usr/bin/env python3
"""Writes the demo model's sample: a document with facts in every part of it, and questions with right answers.

    python3 tools/demo_sample.py --seed 1 --out models/demo/sample

Eight questions for a single fact, one for two values, two of two steps, one for something that is not stated. The
facts share keys and name parts, so each has something to be confused with. Standard library only.
"""

import argparse
import json
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
import demo_data  # noqa: E402
import demo_facts as facts  # noqa: E402
import quality_suites as suites  # noqa: E402

N_FACTS, N_SINGLE = 14, 8


def make(seed, length):
    """The text and its questions [(question, answer)]."""
    rng = random.Random(seed)
    d = facts.Draw(rng, True, 0.4, [k for k in facts.KINDS if k != "pass"])
    chains = []
    while len(chains) < 2:
        c = d.chain()
        if c:
            chains.append(c)
    while not any(len(f[2]) == 2 for f in d.facts):
        d.add("market", d.name("town"))
    d.fill(N_FACTS, 0.3, 0.3)
    order = rng.sample(d.facts, len(d.facts))
    told = [((i + rng.uniform(0.2, 0.8)) / len(order), facts.state(rng, f)) for i, f in enumerate(order)]
    text = demo_data.TITLES[seed % len(demo_data.TITLES)] + "\n\n" + suites.write(
        rng, length, told, set().union(*d.names.values()))
    single = [f for f in order if len(f[2]) == 1]
    pair = next(f for f in order if len(f[2]) == 2)
    none = d.missing()
    asked = [(facts.ask(rng, f), f[2]) for f in rng.sample(single, N_SINGLE) + [pair, none]]
    asked += [(facts.ask_hop(rng, a, b), b[2]) for a, b in chains]
    rng.shuffle(asked)
    return text, [(q, facts.answer_of(a)) for q, a in asked]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--length", type=int, default=6400, help="in tokens")
    ap.add_argument("--out", required=True)
    args = ap.parse_args()
    out = pathlib.Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    text, asked = make(args.seed, args.length)
    (out / "document.txt").write_text(text)
    (out / "questions.json").write_text(json.dumps([{"q": q, "a": a} for q, a in asked], indent=2) + "\n")


if __name__ == "__main__":
    main()
