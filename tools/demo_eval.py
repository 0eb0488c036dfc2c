#!/usr/bin/env python3
"""Exact match of the demo model's answers through a running daemon, over freshly generated documents.

    semanticached --model models/demo &
    python3 tools/demo_eval.py --semcache build/cpu/bin/semcache --words 1600,4800 --documents 12

Each document has eight facts and one question for each. Ratios are measured: entries kept over the
entries of an exact cache, prompt and answer together. Standard library only.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import demo_data  # noqa: E402

FORMAT = pathlib.Path(__file__).parent.parent / "models" / "demo" / "prompt_format.json"


def ask(args, document, question, ratio):
    mode = ["--kv", "exact"]
    if ratio is not None:
        mode = ["--kv", "compressed", "--target-ratio", str(ratio)]
    done = subprocess.run(
        [args.semcache, "ask", "--server", args.server, "--document", document,
         "--prompt-format", str(FORMAT), "--max-tokens", "8", "--json", *mode, "--", question],
        capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"semcache: {done.stderr.strip()}")
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--semcache", default="build/cpu/bin/semcache")
    parser.add_argument("--server", default="127.0.0.1:50051")
    parser.add_argument("--words", default="1600,4800", help="lengths, in words of filler")
    parser.add_argument("--ratios", default="0.5,0.25,0.125")
    parser.add_argument("--documents", type=int, default=12)
    parser.add_argument("--facts", type=int, default=8)
    parser.add_argument("--seed", type=int, default=3000)
    args = parser.parse_args()
    ratios = [None] + [float(r) for r in args.ratios.split(",")]

    print("tokens  mode        right      entries kept")
    for words in (int(w) for w in args.words.split(",")):
        tallies = {ratio: [0, 0, 0.0, 0] for ratio in ratios}
        for n in range(args.documents):
            text, facts = demo_data.chronicle(args.seed + n, words, args.facts)
            rng = random.Random(n)
            with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
                file.write(text)
                file.flush()
                for fact in facts:
                    question = demo_data.question(rng, fact)
                    for ratio, tally in tallies.items():
                        reply = ask(args, file.name, question, ratio)
                        receipt = reply["receipt"]
                        tally[0] += reply["text"].strip() == fact[2]
                        tally[1] += 1
                        tally[2] += receipt["physical_entries"] / receipt["exact_entries"]
                        tally[3] += reply["usage"]["prompt_tokens"]
        for ratio, (right, asked, kept, tokens) in tallies.items():
            mode = "exact" if ratio is None else f"r {ratio:g}"
            print(f"{tokens // asked:6}  {mode:10}  {right:3} of {asked:3}  {kept / asked:.3f}", flush=True)


if __name__ == "__main__":
    main()
