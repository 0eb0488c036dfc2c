#!/usr/bin/env python3
"""Other ways to make a KV cache smaller, on the same weights, documents and questions, at the same kept entries.

    python3 -m venv peers && peers/bin/pip install kvpress "transformers<5.3" torch
    bench/quality_results.py --build build/cpu
    peers/bin/python bench/quality_peers.py --results docs/results/quality/results.json --out peers.json
    bench/quality_results.py --only none --peers peers.json

Presses of kvpress (0.5.4 or later), which run in transformers. The suite is made again from what results.json says
of it. A document is compressed before any question is known, to the share of entries that ours measured over the
requests about that document, less the questions and answers, which are exact here as there. Then every question is
answered from a copy of that cache.
"""

import argparse
import json
import logging
import pathlib
import shutil
import sys
import tempfile
import time

sys.dont_write_bytecode = True
SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "bench"))
import quality_suites  # noqa: E402

MAX_TOKENS = 24
NAMES = ["Knorm", "KeyDiff", "SnapKV", "StreamingLLM", "ExpectedAttention", "ChunkKV", "KVzip"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=pathlib.Path, default=SOURCE / "docs" / "results" / "quality" / "results.json")
    parser.add_argument("--model", type=pathlib.Path, default=SOURCE / "models" / "demo")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--presses", default=",".join(NAMES), help="and None: nothing is compressed")
    parser.add_argument("--ratios", default="0.17,0.05 window 64 epoch 128", help="rows of results.json whose kept entries are taken")
    parser.add_argument("--lengths", help="of the documents; all that results.json has")
    parser.add_argument("--limit", type=int, default=0, help="documents of each task and length; 0: all")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    return parser.parse_args()


def press_of(name, ratio):
    import kvpress
    if name == "None":
        return None
    if name == "ChunkKV":
        return kvpress.ChunkKVPress(kvpress.SnapKVPress(compression_ratio=ratio))
    return getattr(kvpress, name + "Press")(compression_ratio=ratio)


def suite_of(results, limit, wanted_lengths):
    suite = results["suites"]["main"]
    lengths, documents = ([int(n) for n in suite[k].split(",")] for k in ("lengths", "documents"))
    taken = {}
    for entry in quality_suites.generate(suite["tasks"].split(","), lengths, documents, suite["seed"], ask_all=True):
        key = entry["task"], entry["length"]
        taken[key] = taken.get(key, 0) + 1
        if (not limit or taken[key] <= limit) and (not wanted_lengths or str(entry["length"]) in wanted_lengths.split(",")):
            yield entry


class Model:
    def __init__(self, args):
        import torch
        import transformers
        from kvpress.pipeline import KVPressTextGenerationPipeline
        logging.getLogger("kvpress").setLevel(logging.ERROR)
        transformers.utils.logging.disable_progress_bar()
        if args.threads:
            torch.set_num_threads(args.threads)
        # Presses that make prompts take the chat template, which is no document's: they get a model without one.
        self.folder = tempfile.TemporaryDirectory(prefix="sc-peers-")
        copy = pathlib.Path(self.folder.name) / "model"
        shutil.copytree(args.model, copy)
        config = json.loads((copy / "tokenizer_config.json").read_text())
        config.pop("chat_template", None)
        (copy / "tokenizer_config.json").write_text(json.dumps(config))
        self.form = json.loads((copy / "prompt_format.json").read_text())
        self.tok = transformers.AutoTokenizer.from_pretrained(copy)
        model = transformers.AutoModelForCausalLM.from_pretrained(copy, dtype=getattr(torch, args.dtype)).to(args.device).eval()
        self.pipe = KVPressTextGenerationPipeline(model=model, tokenizer=self.tok, device=args.device)
        self.torch = torch

    def ids(self, entry):
        def of(text, **how):
            return self.tok(text, return_tensors="pt", **how).input_ids
        return of(entry["document"].rstrip("\n")), [
            of(self.form["question_prefix"] + q["q"] + self.form["answer_prefix"], add_special_tokens=False) for q in entry["questions"]]

    def answers(self, context, questions, press):
        with self.torch.no_grad():
            said = self.pipe._forward({"context_ids": context, "questions_ids": questions}, MAX_TOKENS, press)
        return [text.split("\n")[0].strip() for text in said]


def wanted(question):
    return " and ".join(question["a"])


def run(model, entries, name, shares):
    """One press at the shares of one row; counts by task and length, as results.json has them."""
    cells, failures = {}, []
    for entry in entries:
        context, questions = model.ids(entry)
        n, n_own = context.shape[1], sum(q.shape[1] for q in questions) / len(questions)
        n_own += sum(len(model.tok(" " + wanted(q), add_special_tokens=False).input_ids) + 1 for q in entry["questions"]) / len(questions)
        kept = max(1.0, shares[entry["id"]] * (n + n_own) - n_own) if name != "None" else n
        said = model.answers(context, questions, press_of(name, max(0.0, 1 - kept / n)))
        cell = cells.setdefault((entry["task"], entry["length"]), {
            "task": entry["task"], "length": entry["length"], "asked": 0, "right": 0, "kept": {"entries": 0, "exact_entries": 0}})
        for question, text in zip(entry["questions"], said):
            cell["asked"] += 1
            cell["right"] += text == wanted(question)
            cell["kept"]["entries"] += kept + n_own
            cell["kept"]["exact_entries"] += n + n_own
            if text != wanted(question):
                failures.append({"id": entry["id"], "question": question["q"], "wanted": wanted(question), "got": text})
    for cell in cells.values():
        cell["kept"] = {k: round(v) for k, v in cell["kept"].items()}
    return {"tasks": list(cells.values()), "n_failures": len(failures), "failures": failures[:50]}


def main():
    args = arguments()
    try:
        import importlib.metadata as metadata
        versions = {name: metadata.version(name) for name in ("kvpress", "transformers", "torch")}
        import kvpress  # noqa: F401
    except (ImportError, metadata.PackageNotFoundError) as missing:
        sys.exit(f"quality_peers: {missing}; see the top of this file")
    results = json.loads(args.results.read_text())
    entries = list(suite_of(results, args.limit, args.lengths))
    model = Model(args)
    out = {**versions, "dtype": args.dtype, "tasks": list(dict.fromkeys(e["task"] for e in entries)),
           "documents": [e["id"] for e in entries], "rows": {}}
    for ratio in args.ratios.split(","):
        shares = {i: share for i, (share, _, _) in results["main"][ratio]["documents"].items()}
        for name in args.presses.split(","):
            begin = time.monotonic()
            row = run(model, entries, name, shares)
            out["rows"].setdefault(name, {})[ratio] = row
            right, asked = (sum(t[k] for t in row["tasks"]) for k in ("right", "asked"))
            print(f"quality_peers: {name} at {ratio}: {right} of {asked}, {time.monotonic() - begin:.0f} s", flush=True)
            args.out.write_text(json.dumps(out) + "\n")


if __name__ == "__main__":
    main()
