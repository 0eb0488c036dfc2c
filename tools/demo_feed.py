"""Batches of training samples made by worker processes, in memory shared with the trainer.

Every worker fills its own slots, each a whole step: rows of one length, cut from the stage of the moment. No torch
here: the workers are forked before it is loaded.
"""

import ctypes
import multiprocessing as mp
import os
import signal
import time

import numpy as np

import demo_stages as stages
from demo_data import Maker

SHORTEST, SLOTS = 128, 3
FIELDS = {"ids": np.uint16, "pos": np.uint16, "doc": np.int32, "pick": np.int32, "goal": np.uint16, "weight": np.float32}


def sizes(tokens):
    """Elements of each field: a token each, a row each, a position with loss each."""
    return {"ids": tokens, "pos": tokens, "doc": tokens // SHORTEST, "pick": tokens // 2, "goal": tokens // 2,
            "weight": tokens // 2}


def positions(rng, n, ends, limit):
    """Positions 0..n-1 with a few random jumps at sentence ends, below `limit`; or none at all."""
    pos = np.arange(n, dtype=np.uint16)
    if not ends or limit <= n or rng.random() < 0.3:
        return pos
    room = rng.randrange(0, limit - n)
    cuts = sorted(rng.random() for _ in range(rng.randint(0, 4)))
    for a, b in zip([0.0] + cuts, cuts + [1.0]):
        pos[rng.choice(ends):] += int(room * (b - a))
    return pos


def fill(maker, out, tokens, frac):
    """Fills one slot; returns the length of its rows, and whether its documents are to be merged."""
    rng = maker.rng
    stage = stages.choose(rng, frac)
    n = min(tokens, rng.choices(list(stage.lengths), list(stage.lengths.values()))[0])
    recipes, shares = list(stage.recipes), list(stage.recipes.values())
    w = np.zeros(tokens, np.float32)
    for row in range(tokens // n):
        recipe, what = rng.choices(recipes, shares)[0], rng.random()
        if what < stage.bare:
            ids, weights, doc, ends = maker.pairs(n, rng.randint(*recipe.n_facts))
        elif what < stage.bare + stage.recall and n <= 512:
            ids, weights, doc, ends = maker.recall(n, recipe)
        else:
            ids, weights, doc, ends = maker.sample(n, recipe, stage.lm)
        a = row * n
        out["ids"][a:a + n], w[a:a + n], out["doc"][row] = ids, weights, doc
        out["pos"][a:a + n] = positions(rng, n, ends, stage.reach)
    # all answers bear loss, and a part of the rest
    answers, rest = np.flatnonzero(w >= 1), np.flatnonzero((w > 0) & (w < 1))
    room = len(out["pick"]) - len(answers)
    rest = rest[np.random.default_rng(rng.getrandbits(32)).random(len(rest)) < min(0.25, room / max(1, len(rest)))]
    pick = np.concatenate([answers, rest])[:len(out["pick"])]
    for name in ("pick", "goal", "weight"):
        out[name][:] = 0
    out["pick"][:len(pick)], out["goal"][:len(pick)], out["weight"][:len(pick)] = pick - 1, out["ids"][pick], w[pick]
    return n, rng.random() < stage.squeeze


def end_with_parent():
    """In a forked process: dies when its parent does, whatever it waits for."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    os.nice(5)


class Feed:
    """Forks `workers` processes. `frac` tells them how far the run is."""

    def __init__(self, tok, seed, workers, tokens, frac=0.0):
        ctx = mp.get_context("fork")
        self.tokens, self.frac = tokens, ctx.Value("d", frac, lock=False)
        self.done, self.waited = ctx.SimpleQueue(), 0.0
        self.free, self.slots, self.processes = [], [], []
        for _ in range(workers):
            self.free.append(ctx.SimpleQueue())
            self.slots.append([self.slot(ctx) for _ in range(SLOTS)])
        for i in range(workers):
            for j in range(SLOTS):
                self.free[i].put(j)
            p = ctx.Process(target=self.work, args=(i, tok, seed + 7919 * i), daemon=True)
            p.start()
            self.processes.append(p)

    def slot(self, ctx):
        out = {}
        for name, n in sizes(self.tokens).items():
            t = np.dtype(FIELDS[name])
            out[name] = np.frombuffer(ctx.RawArray("b", n * t.itemsize), t)
        return out

    def work(self, i, tok, seed):
        end_with_parent()
        maker = Maker(tok, seed)
        while True:
            j = self.free[i].get()
            n, squeeze = fill(maker, self.slots[i][j], self.tokens, self.frac.value)
            self.done.put((i, j, n, squeeze))

    def next(self):
        """(fields, length of rows, whether to merge, what to give back)."""
        t = time.monotonic()
        i, j, n, squeeze = self.done.get()
        self.waited += time.monotonic() - t
        return self.slots[i][j], n, squeeze, (i, j)

    def give_back(self, what):
        self.free[what[0]].put(what[1])

    def close(self):
        for p in self.processes:
            p.kill()


def rate(tok, tokens, seconds, seed=1):
    """Tokens a second that one worker makes, by the part of the run."""
    maker, out = Maker(tok, seed), {k: np.zeros(n, FIELDS[k]) for k, n in sizes(tokens).items()}
    got = {}
    for frac in (0.0, 0.05, 0.15, 0.3, 0.5, 0.9):
        fill(maker, out, tokens, frac)
        t, n = time.monotonic(), 0
        while time.monotonic() - t < seconds:
            fill(maker, out, tokens, frac)
            n += tokens
        got[frac] = n / (time.monotonic() - t)
    return got


if __name__ == "__main__":
    import sys
    from tokenizers import Tokenizer
    print({k: round(v) for k, v in rate(Tokenizer.from_file(sys.argv[1]), 32768, 3.0).items()})
