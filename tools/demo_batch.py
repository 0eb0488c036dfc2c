"""Exact match of the model in training on the suites of bench/quality_suites.py: many questions at once.

A greedy answer is right when every token of it, and the end, is the likeliest behind those before it; so one pass over
document, question and right answer tells. No torch at the top: suites are made in processes forked before it is loaded.
"""

import multiprocessing as mp
import pathlib
import sys
import time

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
import quality_suites as suites  # noqa: E402
from demo_data import ANSWER_PREFIX, QUESTION_PREFIX  # noqa: E402
from demo_feed import end_with_parent  # noqa: E402

SEED = 2  # not the seed of the published tables


def make(tok, length, documents, tasks=None):
    """[(task, ids of document, question and answer, tokens of the document, tokens of the answer)]"""
    eos, out = tok.token_to_id("<|eos|>"), []
    for entry in suites.generate(tasks or list(suites.TASKS), [length], documents, SEED):
        doc = tok.encode(entry["document"].rstrip("\n")).ids
        for question in entry["questions"]:
            q = tok.encode(QUESTION_PREFIX + question["q"] + ANSWER_PREFIX, add_special_tokens=False).ids
            a = tok.encode(" " + " and ".join(question["a"]), add_special_tokens=False).ids + [eos]
            out.append((entry["task"], np.array(doc + q + a, np.uint16), len(doc), len(a)))
    return out


class Maker:
    """Makes the suites in the background, a process for each length."""

    def __init__(self, tok, lengths, documents):
        ctx = mp.get_context("fork")
        self.parts = []
        for n in lengths:
            queue = ctx.SimpleQueue()
            p = ctx.Process(target=self.work, args=(queue, tok, n, documents), daemon=True)
            p.start()
            self.parts.append((n, queue, p))

    @staticmethod
    def work(queue, tok, length, documents):
        end_with_parent()
        queue.put(make(tok, length, documents))

    def get(self, deadline):
        out = {}
        for n, queue, _ in self.parts:
            while queue.empty() and time.monotonic() < deadline:
                time.sleep(0.1)
            if not queue.empty():
                out[n] = queue.get()
        return out

    def close(self):
        for _, _, p in self.parts:
            p.kill()


def score(p, rows, device, deadline, squeeze=None, parts=None, tokens=131072):
    """{task: [right, asked]}, as far as the time goes."""
    import torch
    import torch.nn.functional as F
    import demo_model as model
    out, at = {}, 0
    rows = sorted(rows, key=lambda r: len(r[1]))
    embed = p["embed"].to(torch.bfloat16)
    with torch.no_grad():
        while at < len(rows) and time.monotonic() < deadline:
            size = 1
            while at + size < len(rows) and (size + 1) * len(rows[at + size][1]) <= tokens:
                size += 1
            some, at = rows[at:at + size], at + size
            n = len(some[-1][1])
            ids = np.zeros((size, n), np.int64)
            where, goal, whose = [], [], []
            for i, (_, row, _, n_answer) in enumerate(some):
                ids[i, :len(row)] = row
                where += range(i * n + len(row) - n_answer - 1, i * n + len(row) - 1)
                goal += row[-n_answer:].tolist()
                whose += [i] * n_answer
            doc = torch.tensor([r[2] for r in some], device=device)
            ids, where, goal = (torch.as_tensor(t, device=device) for t in (ids, where, goal))
            pos = torch.arange(n, device=device).repeat(size)
            h = model.forward(p, ids.flatten(), pos, n, doc, squeeze, parts or (model.before, model.after, model.attend))
            best = F.linear(model.rms(h[where], p["norm"]), embed).argmax(-1)
            wrong = set(np.array(whose)[(best != goal).cpu().numpy()].tolist())
            for i, (task, *_) in enumerate(some):
                cell = out.setdefault(task, [0, 0])
                cell[0], cell[1] = cell[0] + (i not in wrong), cell[1] + 1
    return out


def table(results):
    """results: {column: {task: [right, asked]}} as Markdown."""
    columns = list(results)
    lines = ["|task|" + "|".join(columns) + "|", "|-" * (len(columns) + 1) + "|"]
    for task in suites.TASKS:
        cells = [results[c].get(task) for c in columns]
        lines.append("|%s|%s|" % (task, "|".join("%d of %d, %.2f" % (*t, t[0] / t[1]) if t else "" for t in cells)))
    return "\n".join(lines)
