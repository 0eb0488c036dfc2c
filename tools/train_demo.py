#!/usr/bin/env python3
"""Trains the demo model from scratch in a given time and writes it in Hugging Face format.

    python3 tools/train_demo.py --out DIR --minutes 5
    python3 tools/demo_import.py --weights DIR --out models/demo

Needs torch, numpy, safetensors and tokenizers; a GPU, or much patience. --minutes is wall time for all of it: start,
compilation, training, and a measurement at the end (--eval-seconds). The rate and the stages follow the clock, so two
runs are alike but not equal. DIR gets the weights in two files each minute, a log and the measurement.

Recipe. A small Llama-architecture model learns to read facts from generated documents (demo_data.py). What matters:
 - the weights start as a rough look-up circuit (demo_model.start_circuit);
 - large embeddings beside what a layer adds, and a small final norm;
 - several facts of the same kind in one document: otherwise the kind alone tells the answer;
 - a curriculum (demo_stages.py): tiny documents of a few facts in one wording first, then hundreds of wordings a kind
   (demo_wordings.py), more facts, filler, questions of two steps, then documents of thousands of tokens;
 - the loss counts answers with weight 1, the document with 0.1, questions with 0.02, and three quarters of the
   low-weight positions are skipped;
 - Muon on the matrices, AdamW on embeddings and norms;
 - random position jumps at sentence ends (PoSE), so short documents train far positions;
 - in the last stage some steps let the questions attend to a clustered and merged cache of the document, with gradients
   through the merge, so the model lives with compression.

What is compiled sees all tokens of a step in one row, whatever the length of the documents: one shape, one compilation.
"""

import argparse
import contextlib
import json
import os
import sys
import threading
import time

START = time.monotonic()
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import demo_batch  # noqa: E402
from demo_feed import FIELDS, Feed, sizes  # noqa: E402

RING = 8  # steps the processor may be ahead of the device
SAVE_EVERY, SAY_EVERY = 60.0, 5.0
EVAL_LENGTHS = [1024, 2048, 4096, 8192]


def orthogonalise(torch, g):
    """Newton-Schulz iteration of Muon on a stack of matrices."""
    x = g.to(torch.bfloat16)
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True).to(torch.bfloat16) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * (a @ a)) @ x
    return (x.mT if flip else x).float()


class Muon:
    """Steps for stacks of matrices: items are a tensor and the views that take it apart into the model's matrices."""

    def __init__(self, torch, items):
        self.torch, self.items = torch, [(t, views, torch.zeros_like(t)) for t, views in items]

    def step(self, lr):
        with self.torch.no_grad():
            for t, views, buf in self.items:
                buf.mul_(0.95).add_(t.grad, alpha=0.05)
                g = t.grad * 0.05 + buf * 0.95
                for view in views:
                    d = orthogonalise(self.torch, view(g))
                    rows, columns = d.shape[-2:]
                    view(t).mul_(1 - lr * 0.01).add_(d, alpha=-lr * max(1.0, rows / columns) ** 0.5)
                t.grad = None


class Ring:
    """Carries slots of the feed to the device without waiting for it."""

    def __init__(self, torch, device, tokens):
        self.torch, self.device, self.at = torch, device, 0
        kind = {"ids": torch.int32, "pos": torch.int32, "doc": torch.int32, "pick": torch.int32, "goal": torch.int32,
                "weight": torch.float32}
        pin = device.type == "cuda"
        self.host = [{k: torch.zeros(n, dtype=kind[k], pin_memory=pin) for k, n in sizes(tokens).items()} for _ in range(RING)]
        self.events = [torch.cuda.Event() for _ in range(RING)] if pin else None

    def carry(self, slot, rows):
        i, self.at = self.at, (self.at + 1) % RING
        if self.events:
            self.events[i].synchronize()
        for k in FIELDS:
            self.host[i][k].numpy()[:] = slot[k]
        out = {k: t.to(self.device, non_blocking=True) for k, t in self.host[i].items()}
        if self.events:
            self.events[i].record()
        for k in ("ids", "pick", "goal"):
            out[k] = out[k].long()
        out["doc"] = out["doc"][:rows].long()
        return out


class Trainer:
    def __init__(self, torch, args, device, tok):
        import demo_model as model
        from demo_sim import Squeeze
        self.torch, self.model, self.args, self.device, self.tok = torch, model, args, device, tok
        p = model.load(args.resume)[0] if args.resume else model.init_params(args.seed)
        self.p = {k: v.to(device).requires_grad_() for k, v in p.items()}
        self.muon = Muon(torch, [
            (self.p["qkv"], [lambda t: t[:, :model.Q_DIM], lambda t: t[:, model.Q_DIM:].unflatten(1, (2, model.KV_DIM))]),
            (self.p["o"], [lambda t: t]), (self.p["gu"], [lambda t: t.unflatten(1, (2, model.FFN))]),
            (self.p["down"], [lambda t: t])])
        self.rest = [self.p[k] for k in ("embed", "norm", "ln1", "ln2")]
        self.adam = torch.optim.AdamW(self.rest, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=device.type == "cuda")
        self.squeeze = Squeeze(device)
        self.parts = [model.before, model.after, model.attend]
        if not args.eager:
            torch._dynamo.config.recompile_limit = 16
            self.parts[:2] = [torch.compile(f, dynamic=False) for f in self.parts[:2]]

    def kernels(self):
        """Only attention that never holds n x n scores, on a GPU."""
        if self.device.type != "cuda":
            return contextlib.nullcontext()
        from torch.nn.attention import SDPBackend, sdpa_kernel
        return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION])

    def choose_attention(self):
        """The kernel with as few K heads as there are, where torch has it."""
        torch, model = self.torch, self.model
        try:
            t = [torch.zeros(1, 128, h, model.HEAD_DIM, device=self.device, dtype=torch.bfloat16, requires_grad=True)
                 for h in (model.HEADS, model.KV_HEADS, model.KV_HEADS)]
            with self.kernels():
                model.attend(*t).sum().backward()
        except RuntimeError as e:
            print("attention with K and V repeated:", str(e).split("\n")[0], flush=True)
            self.parts[2] = model.attend_expanded

    def loss(self, b, n, merge):
        """The loss, and sums: answers' tokens right and asked."""
        torch, F = self.torch, self.torch.nn.functional
        h = self.model.forward(self.p, b["ids"], b["pos"], n, b["doc"], self.squeeze if merge else None, self.parts)
        h = self.model.rms(h.index_select(0, b["pick"]), self.p["norm"])
        logits = F.linear(h, self.p["embed"].to(h.dtype)).float()
        ce = F.cross_entropy(logits, b["goal"], reduction="none")
        with torch.no_grad():
            answers = (b["weight"] >= 1) & (b["goal"] > 1)
            hits = ((logits.argmax(-1) == b["goal"]) & answers).sum()
        return (ce * b["weight"]).sum() / b["weight"].sum(), torch.stack([hits, answers.sum()])

    def step(self, b, n, merge, lr):
        with self.kernels():
            loss, hits = self.loss(b, n, merge)
            loss.backward()
        self.torch.nn.utils.clip_grad_norm_(self.rest, 1.0)
        self.muon.step(0.01 * lr)
        for g in self.adam.param_groups:
            g["lr"] = 4e-3 * lr
        self.adam.step()
        self.adam.zero_grad()
        return loss.detach(), hits

    def save(self, note):
        """Two files of weights, each under 16 MiB, and what they are. Not if they are no numbers."""
        from safetensors.torch import save_file
        p = {k: v.detach().to(self.torch.bfloat16).cpu().contiguous().clone() for k, v in self.model.unstack(self.p).items()}
        if not all(bool(v.isfinite().all()) for v in p.values()):
            print("not saved: weights that are no numbers", flush=True)
            return False
        names, half, at = [{}, {}], sum(v.numel() for v in p.values()) / 2, 0
        for k, v in p.items():
            names[at >= half][k] = v
            at += v.numel()
        os.makedirs(self.args.out, exist_ok=True)
        for name, part in zip(("weights-a.safetensors", "weights-b.safetensors"), names):
            save_file(part, os.path.join(self.args.out, name + ".tmp"), metadata={"format": "pt"})
            os.replace(os.path.join(self.args.out, name + ".tmp"), os.path.join(self.args.out, name))
        with open(os.path.join(self.args.out, "run.json"), "w") as f:
            json.dump(note, f)
        return True


def rate(frac):
    """Of the full rate: all of it, then down to nothing."""
    return 1.0 if frac < 0.5 else max(0.0, (1 - frac) / 0.5)


def measure(trainer, made, deadline, log):
    """Prints a table of exact match, with the whole cache and with a merged one."""
    results, rows = {}, made.get(deadline)
    trainer.squeeze.pick, trainer.squeeze.follow = 1, False
    parts = (trainer.model.before, trainer.model.after, trainer.parts[2])
    tokens = 131072 if trainer.device.type == "cuda" else 8192
    with trainer.kernels():
        for squeeze, name in ((None, "%d"), (trainer.squeeze, "%d merged")):
            for n in rows:
                t = time.monotonic()
                results[name % n] = demo_batch.score(trainer.p, rows[n], trainer.device, deadline, squeeze, parts, tokens)
                log("measured %s: %.1f s" % (name % n, time.monotonic() - t))
    text = demo_batch.table(results)
    log("\n" + text)
    with open(os.path.join(trainer.args.out, "eval.md"), "w") as f:
        f.write(text + "\n")


def arguments():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=5, help="wall time for all of it")
    ap.add_argument("--eval-seconds", type=float, default=30)
    ap.add_argument("--eval-documents", type=int, default=16, help="of each task and length")
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--lr", type=float, default=1.0)
    ap.add_argument("--tokens", type=int, default=32768, help="of a step")
    ap.add_argument("--workers", type=int, default=0, help="processes that make data; 0: all cores but four, 10 at most")
    ap.add_argument("--device", default="auto")
    ap.add_argument("--eager", action="store_true", help="without torch.compile")
    ap.add_argument("--resume", help="a model directory to start from")
    ap.add_argument("--from-stage", type=float, default=0.0, help="where in the curriculum to start, from 0 to 1")
    ap.add_argument("--tokenizer", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "models", "demo"),
                    help="directory of tokenizer.json")
    return ap.parse_args()


def main():
    args = arguments()
    end = START + 60 * args.minutes
    train_end = end - args.eval_seconds - 2
    from tokenizers import Tokenizer
    tok = Tokenizer.from_file(os.path.join(args.tokenizer, "tokenizer.json"))
    os.makedirs(args.out, exist_ok=True)
    log_file = open(os.path.join(args.out, "train.log"), "w")

    def log(text):
        line = "%6.1f s  %s" % (time.monotonic() - START, text)
        print(line, flush=True)
        log_file.write(line + "\n")
        log_file.flush()

    workers = args.workers or max(1, min(10, (os.cpu_count() or 2) - 4))
    feed = Feed(tok, args.seed, workers, args.tokens, args.from_stage)
    made = demo_batch.Maker(tok, EVAL_LENGTHS, args.eval_documents)
    watchdog = threading.Timer(end - time.monotonic(), lambda: os._exit(3))  # the weights are saved long before
    watchdog.daemon = True
    watchdog.start()
    try:
        run(args, tok, feed, made, train_end, end, log)
    finally:
        feed.close()
        made.close()
        watchdog.cancel()


def run(args, tok, feed, made, train_end, end, log):
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    import torch
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    name = args.device if args.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    log("%s, %d workers, %d tokens a step" % (torch.cuda.get_device_name() if name == "cuda" else name, len(feed.processes), args.tokens))
    trainer = Trainer(torch, args, device, tok)
    trainer.choose_attention()
    ring = Ring(torch, device, args.tokens)
    step, seen, sums, since = 0, 0, torch.zeros(2, device=device), [0, 0]
    begin = said = saved = None
    while True:
        now = time.monotonic()
        frac = 0.0 if begin is None else (now - begin) / (train_end - begin)
        if frac >= 1 or now >= train_end:
            break
        feed.frac.value = args.from_stage + frac * (1 - args.from_stage)
        slot, n, merge, ticket = feed.next()
        b = ring.carry(slot, args.tokens // n)
        feed.give_back(ticket)
        trainer.squeeze.pick = step % 3
        lr = args.lr * rate(frac) * min(1.0, (step + 1) / 60)
        try:
            loss, hits = trainer.step(b, n, merge, lr)
        except Exception as e:  # a compiler that is missing or too old should not end the run
            if step or args.eager:
                raise
            log("without torch.compile: %s" % str(e).split("\n")[0])
            trainer.parts[:2] = [trainer.model.before, trainer.model.after]
            for t in trainer.p.values():
                t.grad = None
            loss, hits = trainer.step(b, n, merge, lr)
        step, seen, sums = step + 1, seen + args.tokens, sums + hits
        if begin is None:  # the first step compiles
            if name == "cuda":
                torch.cuda.synchronize()
            begin = said = saved = time.monotonic()
            log("first step after %.1f s" % (begin - now))
        now = time.monotonic()
        if now - said > SAY_EVERY:
            right, asked = sums.tolist()
            log("%3.0f %% step %d tokens %.1fM (%.2fM/s) loss %.3f answers' tokens %.3f rows of %d waited %.1f s memory %.1f GB" % (
                100 * frac, step, seen / 1e6, (seen - since[1]) / 1e6 / (now - said), loss.item(), right / max(1, asked), n,
                feed.waited, torch.cuda.max_memory_allocated() / 1e9 if name == "cuda" else 0))
            sums, since, said = torch.zeros(2, device=device), [step, seen], now
        if now - saved > SAVE_EVERY:
            saved = now
            trainer.save({"step": step, "tokens": seen, "part": frac})
    if name == "cuda":
        torch.cuda.synchronize()
    log("trained: step %d, %.1fM tokens, waited %.1f s for data" % (step, seen / 1e6, feed.waited))
    trainer.save({"step": step, "tokens": seen, "part": 1.0, "seconds": time.monotonic() - START})
    feed.close()
    measure(trainer, made, end - 2, log)
    log("done")


if __name__ == "__main__":
    main()
