#!/usr/bin/env python3
"""Trains the demo model from scratch on two CPU cores and writes it in Hugging Face format.

    python3 tools/train_demo.py --out models/demo
    python3 tools/train_demo.py --out models/demo --state DIR     keep the state in DIR, go on from there if it is there

Needs torch, numpy, safetensors and tokenizers, and a C++ compiler for torch.compile (--eager does without).
--minutes counts processor time of one worker, so a run that is stopped and continued, or shares its cores,
sees the same data. Stages end by that clock: two runs with one seed see the same data in the same order but
may stop at different steps.

Recipe. A small Llama-architecture model learns to read facts from generated documents
(demo_data.py). What matters:
 - the weights start as a rough look-up circuit (demo_model.start_circuit);
 - large embeddings beside what a layer adds, and a small final norm;
 - several facts of the same kind in one document: otherwise the kind alone tells the answer;
 - a curriculum: tiny documents of a few facts in one wording first, then all wordings, more facts, filler,
   questions of two steps, then documents of thousands of tokens;
 - the loss counts answers with weight 1, the document with 0.1, questions with 0.02, and three
   quarters of the low-weight positions are skipped;
 - Muon on the matrices, AdamW on embeddings and norms;
 - random position jumps at sentence ends (PoSE), so short documents train far positions;
 - in the last stage some steps let the questions attend to a clustered and merged cache of
   the document, with gradients through the merge, so the model lives with compression;
 - two processes of one thread each, with shared weights: two threads in one process were several times slower
   on cores that others used, too, because each waits for the other at the end of every operation.
"""

import argparse
import math
import os
import random
import sys
import time

QUICK_MALLOC = {  # keep memory between steps: fresh pages cost more than the arithmetic on them
    "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 36), "MALLOC_TOP_PAD_": str(1 << 28),
    "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_COMPILE_THREADS": "1"}
if __name__ == "__main__" and any(os.environ.get(k) != v for k, v in QUICK_MALLOC.items()):
    os.execve(sys.executable, [sys.executable] + sys.argv, {**os.environ, **QUICK_MALLOC})

import torch  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402
import torch.nn.functional as F  # noqa: E402

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import demo_model as model  # noqa: E402
from demo_data import Maker  # noqa: E402
from demo_sim import Reader, Squeeze  # noqa: E402
from demo_stages import PROBES, STAGES  # noqa: E402

WORKERS = 2


def orthogonalise(g):
    """Newton-Schulz iteration of Muon on a stack of matrices."""
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).bfloat16() + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if flip else x).float()


class Muon:
    def __init__(self, params):
        self.params, self.buf = params, [torch.zeros_like(t) for t in params]

    @torch.no_grad()
    def step(self, lr):
        for t, buf in zip(self.params, self.buf):
            buf.mul_(0.95).add_(t.grad, alpha=0.05)
            d = orthogonalise(t.grad * 0.05 + buf * 0.95)
            t.mul_(1 - lr * 0.01).add_(d, alpha=-lr * max(1.0, t.shape[0] / t.shape[1]) ** 0.5)


def positions(rng, n, ends, limit):
    """Positions 0..n-1 with a few random jumps at sentence ends, below `limit`; or none at all."""
    pos = torch.arange(n)
    if not ends or limit <= n or rng.random() < 0.25:
        return pos
    room = rng.randrange(0, limit - n)
    cuts = sorted(rng.random() for _ in range(rng.randint(0, 4)))
    parts = [b - a for a, b in zip([0.0] + cuts, cuts + [1.0])]
    for x in parts:
        pos[rng.choice(ends):] += int(room * x)
    return pos


def batch(maker, stage, n, size):
    """`size` samples of n tokens: ids, weights, length of the first document, positions."""
    rng, rows = maker.rng, []
    what, recipe, lm = rng.random(), rng.choice(stage.recipes), stage.lm
    for _ in range(size):
        if what < stage.bare:
            ids, w, d, ends = maker.pairs(n, rng.randint(*recipe.n_facts))
        elif what < stage.bare + stage.recall and n <= 512:
            ids, w, d, ends = maker.recall(n, recipe)
        else:
            ids, w, d, ends = maker.sample(n, recipe, lm)
        rows.append((ids, w, d, positions(rng, n, ends, stage.reach)))
    return (torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows]), rows[0][2],
            torch.stack([r[3] for r in rows]))


def loss_of(p, ids, w, doc, pos, squeeze, run):
    x = model.forward(p, ids, pos, doc, squeeze, run=run)[:, :-1]
    w, y = w[:, 1:], ids[:, 1:]
    pick = (w >= 1) | ((w > 0) & (torch.rand(w.shape) < 0.25))
    h, y, wp = x[pick], y[pick], w[pick]
    logits = F.linear(h, p["model.embed_tokens.weight"].to(h.dtype)).float()
    ce = F.cross_entropy(logits, y, reduction="none")
    ans = wp >= 1
    hit = (logits.argmax(-1) == y)[ans & (y > 1)].float().mean().item()
    return (ce * wp).sum() / wp.sum(), ce[ans].mean().item(), hit


@torch.no_grad()
def probe(p, tok, seed, which, n_docs):
    """Right answers by type of question on fresh documents: {type: [right, asked]}."""
    import demo_data as data
    maker, out = Maker(tok, seed), {}
    r = Reader(p, tok)
    for name, n_tokens, recipe in which:
        for _ in range(n_docs):
            ids, _, d = maker.document(n_tokens, recipe)
            cache, _ = r.read(ids)
            for _ in range(recipe.n_questions):
                kind, q, values = data.draw_question(maker.rng, recipe, d)
                t = out.setdefault(name + " " + kind, [0, 0])
                t[0] += r.right(cache, len(ids), q, data.facts.answer_of(values))
                t[1] += 1
    return out


class Shared:
    """Weights and gradients in shared memory. Every worker has its own gradients; each updates a share of
    the weights with the mean."""

    def __init__(self, p):
        self.shapes = {k: tuple(v.shape) for k, v in p.items()}
        size = sum(v.numel() for v in p.values())
        self.flat = torch.cat([v.flatten() for v in p.values()]).share_memory_()
        self.grads = [torch.zeros(size).share_memory_() for _ in range(WORKERS)]
        self.clock = torch.zeros(4, dtype=torch.float64).share_memory_()
        self.barrier = mp.get_context("spawn").Barrier(WORKERS)
        self.queue = mp.get_context("spawn").Queue()

    def views(self, flat):
        out, at = {}, 0
        for k, s in self.shapes.items():
            n = math.prod(s)
            out[k] = flat[at:at + n].view(s)
            at += n
        return out


def worker(rank, args, shared, tok_text):
    from tokenizers import Tokenizer
    torch.set_num_threads(1)
    torch.manual_seed(args.seed + rank)
    tok = Tokenizer.from_str(tok_text)
    maker = Maker(tok, args.seed + 7919 * rank)
    p = {k: v.detach().requires_grad_() for k, v in shared.views(shared.flat).items()}
    for k, g in shared.views(shared.grads[rank]).items():
        p[k].grad = g
    run = model.layer
    if not args.eager:
        torch._dynamo.config.recompile_limit = 64
        run = torch.compile(model.layer, dynamic=False)
    mine = [v for k, v in p.items() if v.ndim == 2 and "layers" in k and int(k.split(".")[2]) % WORKERS == rank]
    rest = [v for k, v in p.items() if v.ndim == 1 or "embed" in k]
    rest = [v for v in rest if (v.ndim == 2) == (rank == 0)]
    muon, squeeze = Muon(mine), Squeeze()
    adam = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    total, acc = args.minutes * 60.0, 0.0
    cpu0, step, seen, t_start = time.process_time(), 0, 0, time.time()
    ends, at = [], 0.0
    for s in STAGES:
        at += s.share / sum(s.share for s in STAGES)
        ends.append(at)
    stage_i = args.first_stage
    used = total * ends[stage_i - 1] if stage_i else 0.0
    state = args.state and os.path.join(args.state, "worker%d.pt" % rank)
    if state and os.path.exists(state):
        st = torch.load(state, weights_only=False)
        step, seen, used, maker.rng = st["step"], st["seen"], st["used"], st["rng"]
        stage_i = next(i for i, end in enumerate(ends) if used < end * total)
        muon.buf, squeeze.log_tau = st["muon"], st["log_tau"]
        adam.load_state_dict(st["adam"])
        if rank == 0:
            with torch.no_grad():
                shared.flat.copy_(st["flat"])

    saved = probed = used / total

    def keep(frac):
        if not state:
            return
        os.makedirs(args.state, exist_ok=True)
        torch.save({"step": step, "seen": seen, "used": frac * total, "rng": maker.rng,
                    "muon": muon.buf, "log_tau": squeeze.log_tau, "adam": adam.state_dict(),
                    "flat": shared.flat.clone() if rank == 0 else None}, state + ".tmp")
        os.replace(state + ".tmp", state)

    def say(*text):
        if rank == 0:
            print(*text, flush=True)

    while True:
        if rank == 0:
            shared.clock[0] = (used + time.process_time() - cpu0) / total
        shared.barrier.wait()
        frac = shared.clock[0].item()
        if frac - saved > 0.04:
            saved = frac
            keep(frac)
            shared.barrier.wait()
        if frac >= ends[stage_i] or frac >= 1 or frac - probed > 0.12:
            saved = probed = frac
            shared.queue.put(probe(p, tok, args.seed + 1000 + rank, PROBES[STAGES[stage_i].probes], args.probe_docs))
            if rank == 0:
                got = {}
                for _ in range(WORKERS):
                    for k, v in shared.queue.get().items():
                        t = got.setdefault(k, [0, 0])
                        t[0], t[1] = t[0] + v[0], t[1] + v[1]
                say("stage %d at %.0f %%: " % (stage_i, 100 * frac) +
                    ", ".join("%s %.2f/%d" % (k, v[0] / v[1], v[1]) for k, v in sorted(got.items())))
                model.export(p, tok, args.out, "stage %d" % stage_i)
            shared.barrier.wait()
            while stage_i < len(STAGES) and frac >= ends[stage_i]:
                stage_i += 1
            keep(frac)
            if frac >= 1 or stage_i >= min(len(STAGES), args.last_stage + 1):
                return
        # the workers choose alike, so that neither waits long for the other
        both = random.Random(args.seed * 1000003 + step)
        st = STAGES[stage_i]
        # one step in four is from an earlier stage, so nothing is forgotten
        if stage_i and both.random() < 0.25:
            st = STAGES[both.randrange(max(0, stage_i - 2), stage_i)]
        n = both.choices(list(st.lengths), list(st.lengths.values()))[0]
        size = max(1, STAGES[stage_i].tokens // n)
        sq = squeeze if both.random() < st.squeeze else None
        if sq:  # merges one document at a time
            squeeze.pick = both.randrange(3)
            parts = [batch(maker, st, n, 1) for _ in range(size)]
        else:
            parts = [batch(maker, st, n, size)]
        shared.grads[rank].zero_()
        ls = an = hit = 0.0
        for ids, w, doc, pos in parts:
            loss, a, h = loss_of(p, ids, w, doc, pos, sq, run)
            (loss / len(parts)).backward()
            ls, an, hit = ls + loss.item() / len(parts), an + a / len(parts), hit + h / len(parts)
            seen += ids.numel() * WORKERS
        shared.barrier.wait()
        warm = min(1.0, (step + 1) / 30)
        lr = warm * (1.0 if frac < 0.6 else max(0.04, (1 - frac) / 0.4)) * args.lr
        # the mean of the workers' gradients, each worker for its share of the weights
        other = shared.views(shared.grads[1 - rank])
        own = {id(t) for t in mine + rest}
        for k, t in p.items():
            if id(t) in own:
                t.grad.add_(other[k]).mul_(0.5)
        torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step(0.01 * lr)
        for g in adam.param_groups:
            g["lr"] = 4e-3 * lr
        adam.step()
        step += 1
        acc = hit if acc == 0 else 0.95 * acc + 0.05 * hit
        if step % 25 == 0:
            say("%5.1f min (wall %.1f) step %d stage %d tokens %.2fM loss %.3f answers %.3f hit %.3f (mean %.3f) "
                "lr %.2f" % ((used + time.process_time() - cpu0) / 60, (time.time() - t_start) / 60, step, stage_i, seen / 1e6,
                             ls, an, hit, acc, lr))


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=40, help="processor time of each of the two workers")
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--lr", type=float, default=1.0)
    ap.add_argument("--eager", action="store_true", help="without torch.compile")
    ap.add_argument("--resume", help="a model directory to start from")
    ap.add_argument("--state", help="directory for what is needed to go on after a stop")
    ap.add_argument("--first-stage", type=int, default=0)
    ap.add_argument("--last-stage", type=int, default=99)
    ap.add_argument("--probe-docs", type=int, default=8)
    ap.add_argument("--pid-file", help="where to write the process ids of the workers")
    args = ap.parse_args()
    if args.resume:
        p, tok = model.load(args.resume)
    else:
        tok = model.train_tokenizer(args.seed)
        p = model.init_params(args.seed)
    shared = Shared(p)
    ctx = mp.get_context("spawn")
    other = ctx.Process(target=worker, args=(1, args, shared, tok.to_str()), daemon=True)
    other.start()
    if args.pid_file:
        with open(args.pid_file, "w") as f:
            f.write("%d %d\n" % (os.getpid(), other.pid))
    worker(0, args, shared, tok.to_str())
    other.join(60)


if __name__ == "__main__":
    main()
