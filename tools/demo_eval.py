#!/usr/bin/env python3
"""Exact match of the demo model's answers to suites of questions (bench/quality_suites.py).

    python3 bench/quality_suites.py --out suites.jsonl
    python3 tools/demo_eval.py --suites suites.jsonl                        the full cache, in transformers
    semanticached --model models/demo &
    python3 tools/demo_eval.py --suites suites.jsonl --semcache build/cpu/bin/semcache --ratios 0.5,0.25

A greedy answer is right when it is the expected one, letter by letter. Each share comes with its 95 % Wilson
interval. Through a daemon, the exact cache and each target ratio are asked; "kept" is then measured: entries
kept over the entries of an exact cache, prompt and answer together. The daemon part needs the standard library only.
"""

import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MAX_TOKENS = 24


def wilson(right, asked, z=1.959964):
    """The 95 % interval of a share."""
    if not asked:
        return 0.0, 1.0
    p, n = right / asked, asked
    mid, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return (mid - spread) / (1 + z * z / n), (mid + spread) / (1 + z * z / n)


def expected(question):
    return " and ".join(question["a"])


class InTransformers:
    """Reads a document once and answers each question from a copy of its cache."""

    def __init__(self, folder, dtype):
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        self.torch = torch
        self.form = json.loads((pathlib.Path(folder) / "prompt_format.json").read_text())
        self.tok = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
        self.eos = self.model.generation_config.eos_token_id
        self.modes = ["full"]

    def answers(self, entry):
        """For each question {mode: (answer, kept)}."""
        import transformers
        torch = self.torch
        with torch.no_grad():
            doc = self.tok(entry["document"].rstrip("\n"), return_tensors="pt").input_ids
            cache = transformers.DynamicCache()
            self.model(doc, past_key_values=cache, logits_to_keep=1)
            n = doc.shape[1]
            out = []
            for question in entry["questions"]:
                text = self.form["question_prefix"] + question["q"] + self.form["answer_prefix"]
                ids = self.tok(text, add_special_tokens=False, return_tensors="pt").input_ids
                got = []
                while len(got) < MAX_TOKENS:
                    logits = self.model(ids, past_key_values=cache, logits_to_keep=1).logits
                    token = int(logits[0, -1].argmax())
                    if token in (self.eos if isinstance(self.eos, list) else [self.eos]):
                        break
                    got.append(token)
                    ids = torch.tensor([[token]])
                cache.crop(n - cache.get_seq_length())  # negative: so many off the end
                answer = self.tok.decode(got).split("\n")[0].strip()
                out.append({"full": (answer, 1.0)})
            return out


class ThroughDaemon:
    def __init__(self, args):
        self.args = args
        self.modes = ["exact"] + ["r %s" % r for r in args.ratios.split(",") if r]

    def ask(self, document, question, mode):
        kv = ["--kv", "exact"] if mode == "exact" else ["--kv", "compressed", "--target-ratio", mode[2:]]
        done = subprocess.run(
            [self.args.semcache, "ask", "--server", self.args.server, "--document", document,
             "--prompt-format", str(pathlib.Path(self.args.model) / "prompt_format.json"),
             "--max-tokens", str(MAX_TOKENS), "--json", *kv, "--", question],
            capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"semcache: {done.stderr.strip()}")
        reply = json.loads(done.stdout)
        receipt = reply["receipt"]
        return reply["text"].strip(), receipt["physical_entries"] / receipt["exact_entries"]

    def answers(self, entry):
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write(entry["document"])
            file.flush()
            return [{mode: self.ask(file.name, q["q"], mode) for mode in self.modes} for q in entry["questions"]]


def show(rows, name):
    """rows: {key: {mode: [right, asked, kept]}}"""
    print("|%s|mode|right|share|95 %%|kept|\n|-|-|-|-|-|-|" % name)
    for key in sorted(rows):
        for mode, (right, asked, kept) in rows[key].items():
            low, high = wilson(right, asked)
            print("|%s|%s|%d of %d|%.3f|%.3f-%.3f|%.2f|" % (
                key, mode, right, asked, right / asked, low, high, kept / asked))
    print(flush=True)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--suites", required=True, help="JSON Lines of bench/quality_suites.py")
    ap.add_argument("--model", default=str(ROOT / "models" / "demo"))
    ap.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"], help="in transformers")
    ap.add_argument("--semcache", help="ask a daemon with this client instead")
    ap.add_argument("--server", default="127.0.0.1:50051")
    ap.add_argument("--ratios", default="0.5,0.25,0.125", help="target ratios, through a daemon")
    ap.add_argument("--depths", action="store_true", help="a table by depth, too")
    ap.add_argument("--wrong", help="file for the wrong answers, JSON Lines")
    args = ap.parse_args()
    source = ThroughDaemon(args) if args.semcache else InTransformers(args.model, args.dtype)

    tables, wrong = {"task, length": {}, "task, depth": {}}, []
    with open(args.suites, encoding="utf-8") as file:
        entries = [json.loads(line) for line in file]
    for entry in entries:
        task = entry["task"] + ("" if entry["trained"] else " (untrained)")
        keys = {"task, length": "%s, %5d" % (task, entry["length"])}
        if entry["depth"] is not None:
            keys["task, depth"] = "%s, %d" % (task, entry["depth"])
        for question, got in zip(entry["questions"], source.answers(entry)):
            for mode, (answer, kept) in got.items():
                right = answer == expected(question)
                for table, key in keys.items():
                    cell = tables[table].setdefault(key, {}).setdefault(mode, [0, 0, 0.0])
                    cell[0], cell[1], cell[2] = cell[0] + right, cell[1] + 1, cell[2] + kept
                if not right:
                    wrong.append({"id": entry["id"], "mode": mode, "q": question["q"],
                                  "expected": expected(question), "got": answer})
    show(tables["task, length"], "task, length")
    if args.depths:
        show(tables["task, depth"], "task, depth")
    if args.wrong:
        pathlib.Path(args.wrong).write_text("".join(json.dumps(w) + "\n" for w in wrong))


if __name__ == "__main__":
    main()
