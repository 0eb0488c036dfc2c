#!/usr/bin/env python3
"""Trains the demo model from scratch on one CPU and writes it in Hugging Face format.

    python3 tools/train_demo.py --out models/demo --minutes 25     train and export
    python3 tools/train_demo.py --out models/demo --sample         write the sample document
    python3 tools/train_demo.py --out models/demo --report         measure on fresh documents

Needs torch, numpy, safetensors and tokenizers. Stages end by time, so two runs with one seed see the
same data in the same order but stop at different steps.

Recipe. A small Llama-architecture model learns to read facts from generated documents
(demo_data.py). What matters, in the order of its effect:
 - the weights start as a rough look-up circuit (start_circuit); without its matching heads the model
   still guessed among the facts of the asked kind after 2 M tokens;
 - large embeddings beside what a layer adds, and a small final norm: with small ones not even bare
   pairs of key and value were learned in 350 steps, with large ones in 100;
 - several facts of the same kind in one document: otherwise the kind alone tells the answer;
 - a curriculum: tiny documents of a few facts first, then more facts, then filler, then documents of
   thousands of tokens;
 - the loss counts answers with weight 1, the document with 0.1, questions with 0.02, and three
   quarters of the low-weight positions are skipped;
 - Muon on the matrices, AdamW on embeddings and norms;
 - random position jumps at sentence ends (PoSE), so short documents train far positions;
 - in the last stage three steps in four let the questions attend to a clustered and merged cache of
   the document, with gradients through the merge, so the model lives with compression.
The model is exported at the end of every stage.
"""

import argparse
import json
import math
import os
import random
import shutil
import sys
import time

import torch
import torch.nn.functional as F

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import demo_data as data  # noqa: E402

VOCAB, DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 2304, 256, 4, 8, 4, 32, 640
THETA, EPS, MAX_POS = 500000.0, 1e-5, 16384
EMBED = 0.4  # large beside what a layer adds, or the layers bury the token itself; the final norm scales it back
SINK, WINDOW, EPOCH = 16, 256, 512
REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")

# share of the time, tokens a sample, samples a step, facts, questions, shared keys, plain facts, positions up to
STAGES = [
    (0.12, 128, 20, (3, 4), 3, 0.0, True, 0),
    (0.12, 224, 14, (4, 6), 5, 0.0, True, 1024),
    (0.14, 320, 12, (4, 8), 8, 0.1, False, 4096),
    (0.16, 512, 8, (4, 12), 10, 0.15, False, 16384),
    (0.18, 1024, 4, (4, 12), 12, 0.15, False, 16384),
    (0.28, 0, 1, (4, 12), 12, 0.15, False, 16384),
]


# ---- tokenizer ------------------------------------------------------------------------------------

def train_tokenizer(seed):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(REGEX), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<|bos|>", "<|eos|>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tok.train_from_iterator(data.corpus(seed, 4000), trainer)
    tok.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", tok.token_to_id("<|bos|>"))])
    for word in data.PEOPLE + data.TOWNS + data.SHIPS + data.COLOURS + data.TRADES + data.GOODS + data.MONTHS:
        n = len(tok.encode(" " + word, add_special_tokens=False).ids)
        if n != 1:
            print("note: %s is %d tokens" % (word, n))
    return tok


# ---- model ----------------------------------------------------------------------------------------

def init_params(seed):
    g = torch.Generator().manual_seed(seed)

    def mat(rows, cols, scale=1.0):
        return torch.randn(rows, cols, generator=g) * (scale * cols ** -0.5)

    p = {"model.embed_tokens.weight": torch.randn(VOCAB, DIM, generator=g) * EMBED}
    for i in range(LAYERS):
        b = "model.layers.%d." % i
        p[b + "self_attn.q_proj.weight"] = mat(HEADS * HEAD_DIM, DIM)
        p[b + "self_attn.k_proj.weight"] = mat(KV_HEADS * HEAD_DIM, DIM)
        p[b + "self_attn.v_proj.weight"] = mat(KV_HEADS * HEAD_DIM, DIM)
        p[b + "self_attn.o_proj.weight"] = mat(DIM, HEADS * HEAD_DIM, 0.2)
        p[b + "mlp.gate_proj.weight"] = mat(FFN, DIM)
        p[b + "mlp.up_proj.weight"] = mat(FFN, DIM)
        p[b + "mlp.down_proj.weight"] = mat(DIM, FFN, 0.1)
        p[b + "input_layernorm.weight"] = torch.ones(DIM)
        p[b + "post_attention_layernorm.weight"] = torch.ones(DIM)
    p["model.norm.weight"] = torch.full((DIM,), 0.06 / EMBED)
    start_circuit(p, g)
    return {k: v.requires_grad_() for k, v in p.items()}


def start_circuit(p, g):
    """Starts layers 0 and 1 as a rough look-up, which a CPU would spend most of its time finding.

    Layer 0: heads that look a fixed number of tokens back. All embeddings share one random direction,
    and the fastest planes of RoPE turn it into a peak at the wanted distance; each head writes what it
    found into a subspace of its own. Layer 1: heads whose query is the key word of the question (4 back
    from "Answer:") and whose key is the word 2 back of a value, matched in the slow planes of RoPE,
    where the distance hardly matters; and heads that look for what followed the same token before.
    They copy the value's embedding to the output. Training does the rest."""
    basis = torch.linalg.qr(torch.randn(DIM, DIM, generator=g))[0].T
    common, word, two, four, prev, *copy = (
        basis[0] * EMBED * DIM ** 0.5, basis[1:33], basis[33:65], basis[65:97], basis[97:129],
        basis[129:161], basis[161:193], basis[193:225])
    emb = p["model.embed_tokens.weight"]
    for sub in (basis[:1], two, four, prev):
        emb -= emb @ sub.T @ sub
    emb += common
    gain = 5.5 / (common @ common / (EMBED * 1.27)).item()
    hd, half = HEAD_DIM, HEAD_DIM // 2
    q, k, v, o = (p["model.layers.0.self_attn.%s_proj.weight" % c] for c in "qkvo")
    q *= 0.3
    k *= 0.3
    for plane in range(4):
        theta = THETA ** (-2 * plane / hd)
        for h in range(KV_HEADS):
            k[h * hd + plane] += gain * common
        for h, back in enumerate((1, 2, 1, 3, 2, 4, 1, 5)):
            q[h * hd + plane] += gain * math.cos(-back * theta) * common
            q[h * hd + half + plane] += gain * math.sin(-back * theta) * common
    for h in range(KV_HEADS):
        v[h * hd:(h + 1) * hd] = word
    for h, sub in ((0, prev), (4, two), (5, four)):
        o[:, h * hd:(h + 1) * hd] = sub.T
    q, k, v, o = (p["model.layers.1.self_attn.%s_proj.weight" % c] for c in "qkvo")
    slow = torch.tensor([*range(half // 2, half), *range(half + half // 2, hd)])
    for h, ask, have in ((0, four[:16], two[:16]), (1, four[16:], two[16:]), (3, word[:16], prev[:16])):
        k[h * hd:(h + 1) * hd] *= 0.2
        k[h * hd + slow] = 1.6 * have
        for i in (2 * h, 2 * h + 1):
            q[i * hd:(i + 1) * hd] *= 0.2
            q[i * hd + slow] = 1.6 * ask
            o[:, i * hd:(i + 1) * hd] = copy[min(h, 2)].T
        v[h * hd:(h + 1) * hd] = copy[min(h, 2)]


def rms(x, w):
    return F.rms_norm(x.float(), (x.shape[-1],), w.float(), EPS).to(x.dtype)


def rope_table(pos, dtype):
    inv = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    a = pos.float()[..., None] * inv
    a = torch.cat([a, a], -1)
    return a.cos().to(dtype)[:, None], a.sin().to(dtype)[:, None]


def rotate(x, cs):
    a, b = x.chunk(2, -1)
    return x * cs[0] + torch.cat([-b, a], -1) * cs[1]


def gsc(dist, tau):
    """Greedy seed clustering of [chunks, m, m] distances; returns the seed of each token [chunks, m]."""
    c, m, _ = dist.shape
    near = dist <= tau
    free = torch.ones(c, m, dtype=torch.bool)
    label = torch.arange(m).expand(c, m).clone()
    rank = torch.arange(m - 1, -1, -1)
    rows = torch.arange(c)
    while True:
        deg = (near & free[:, None]).sum(-1) * free
        if int(deg.max()) <= 1:
            return label
        best = (deg * m + rank).argmax(-1)
        live = deg[rows, best] > 1
        member = near[rows, best] & free & live[:, None]
        label = torch.where(member, best[:, None], label)
        free &= ~member


def distances(x, scale):
    """x: pre-RoPE keys [kv_heads, chunks, m, head_dim]; the sum over heads of squared distances."""
    x = x.float() / scale.sqrt()[:, None, None, None]
    x = x.permute(1, 2, 0, 3).flatten(2)
    n = (x * x).sum(-1)
    return (n[:, :, None] + n[:, None] - 2 * x @ x.transpose(1, 2)).clamp_min(0)


class Squeeze:
    """Clusters the document's cache in training, at a share of entries kept that is drawn per step.
    The threshold of each layer follows the share it produced (a slow controller)."""

    def __init__(self):
        self.log_tau = [[2.0] * LAYERS for _ in range(3)]
        self.share = [0.5, 0.33, 0.22]
        self.pick = 0

    def merge(self, layer, pre, k, v):
        """One document: pre, k, v [1, kv_heads, n, head_dim] -> merged k, v and the bias [cores]."""
        m, n = 64, k.shape[2]
        lo = SINK
        chunks = max(0, (n - WINDOW - lo)) // m
        if chunks == 0:
            return k, v, torch.zeros(n)
        hi = lo + chunks * m
        with torch.no_grad():
            x = pre[0, :, lo:hi].float()
            scale = x.var(dim=(1,)).sum(-1) + 1e-6
            dist = distances(x.view(KV_HEADS, chunks, m, HEAD_DIM), scale)
            lt = self.log_tau[self.pick]
            label = gsc(dist, math.exp(lt[layer] - 3))
            flat = (label + torch.arange(chunks)[:, None] * m).flatten()
            uniq, idx = torch.unique(flat, return_inverse=True)
            cnt = torch.bincount(idx).float()
            got = len(uniq) / len(flat)
            lt[layer] += 0.5 * (got - self.share[self.pick])

        def mean(t):
            z = torch.zeros(1, KV_HEADS, len(uniq), HEAD_DIM)
            z = z.index_add(2, idx, t[:, :, lo:hi].float()) / cnt[:, None]
            return torch.cat([t[:, :, :lo], z.to(t.dtype), t[:, :, hi:]], 2)

        return mean(k), mean(v), torch.cat([torch.zeros(lo), cnt.log(), torch.zeros(n - hi)])


def forward(p, ids, pos, doc=0, squeeze=None, dtype=torch.bfloat16):
    """Hidden states [batch, n, dim]. With `squeeze`, tokens from `doc` on see the document merged."""
    x = p["model.embed_tokens.weight"][ids].to(dtype)
    bsz, n = ids.shape
    cs = rope_table(pos, dtype)
    for i in range(LAYERS):
        b = "model.layers.%d." % i
        w = {k: p[b + k + ".weight"] for k in ("input_layernorm", "post_attention_layernorm")}

        def lin(t, name):
            return F.linear(t, p[b + name + ".weight"].to(dtype))

        h = rms(x, w["input_layernorm"])
        q = lin(h, "self_attn.q_proj").view(bsz, n, HEADS, HEAD_DIM).transpose(1, 2)
        pre = lin(h, "self_attn.k_proj").view(bsz, n, KV_HEADS, HEAD_DIM).transpose(1, 2)
        v = lin(h, "self_attn.v_proj").view(bsz, n, KV_HEADS, HEAD_DIM).transpose(1, 2)
        q, k = rotate(q, cs), rotate(pre, cs)
        g = HEADS // KV_HEADS
        if squeeze is None:
            o = F.scaled_dot_product_attention(q, k.repeat_interleave(g, 1), v.repeat_interleave(g, 1), is_causal=True)
        else:
            kd, vd, bias = squeeze.merge(i, pre[:, :, :doc], k[:, :, :doc], v[:, :, :doc])
            o1 = F.scaled_dot_product_attention(q[:, :, :doc], k[:, :, :doc].repeat_interleave(g, 1),
                                                v[:, :, :doc].repeat_interleave(g, 1), is_causal=True)
            t = n - doc
            mask = torch.cat([bias.expand(t, -1), torch.full((t, t), -1e4).triu(1)], 1).to(dtype)
            o2 = F.scaled_dot_product_attention(q[:, :, doc:],
                                                torch.cat([kd, k[:, :, doc:]], 2).repeat_interleave(g, 1),
                                                torch.cat([vd, v[:, :, doc:]], 2).repeat_interleave(g, 1), mask)
            o = torch.cat([o1, o2], 2)
        x = x + lin(o.transpose(1, 2).reshape(bsz, n, -1), "self_attn.o_proj")
        h = rms(x, w["post_attention_layernorm"])
        x = x + lin(F.silu(lin(h, "mlp.gate_proj")) * lin(h, "mlp.up_proj"), "mlp.down_proj")
    return rms(x, p["model.norm.weight"])


# ---- reading: a cache that may be compressed, and greedy answers ---------------------------------

class Reader:
    """Runs a document through the model in blocks, with an exact or a compressed cache, and answers
    questions from it. Streaming as the daemon does it: at position t every chunk that ends at or
    before floor((t - WINDOW) / EPOCH) * EPOCH is merged, the rest and the first SINK are exact."""

    def __init__(self, p, tok, taus=None, scales=None, dtype=torch.float32):
        self.p, self.tok, self.taus, self.scales, self.dtype = p, tok, taus, scales, dtype
        self.eos = tok.token_to_id("<|eos|>")
        self.w = {k: v.detach().to(dtype) for k, v in p.items()}
        self.ends = sentence_ends(tok)

    def step(self, ids, pos0, cache):
        """cache: per layer (k, v, bias). Returns the logits of the last token and the new entries."""
        w, n = self.w, len(ids)
        x = w["model.embed_tokens.weight"][torch.tensor(ids)][None]
        cs = rope_table(torch.arange(pos0, pos0 + n)[None], self.dtype)
        new, g = [], HEADS // KV_HEADS
        for i in range(LAYERS):
            b = "model.layers.%d." % i
            h = rms(x, w[b + "input_layernorm.weight"])
            q, pre, v = (F.linear(h, w[b + "self_attn.%s_proj.weight" % c]).view(1, n, -1, HEAD_DIM).transpose(1, 2)
                         for c in "qkv")
            q, k = rotate(q, cs), rotate(pre, cs)
            ck, cv, cb = cache[i]
            mask = torch.cat([cb.expand(n, -1), torch.full((n, n), -1e9).triu(1)], 1).to(self.dtype)
            o = F.scaled_dot_product_attention(q, torch.cat([ck, k], 2).repeat_interleave(g, 1),
                                               torch.cat([cv, v], 2).repeat_interleave(g, 1), mask)
            x = x + F.linear(o.transpose(1, 2).reshape(1, n, -1), w[b + "self_attn.o_proj.weight"])
            h = rms(x, w[b + "post_attention_layernorm.weight"])
            x = x + F.linear(F.silu(F.linear(h, w[b + "mlp.gate_proj.weight"])) * F.linear(h, w[b + "mlp.up_proj.weight"]),
                             w[b + "mlp.down_proj.weight"])
            new.append((pre, k, v))
        x = rms(x[:, -1], w["model.norm.weight"])
        return F.linear(x, w["model.embed_tokens.weight"])[0], new

    def empty(self):
        z = torch.zeros(1, KV_HEADS, 0, HEAD_DIM, dtype=self.dtype)
        return [(z, z, torch.zeros(0)) for _ in range(LAYERS)]

    def read(self, ids):
        """The cache after the document, and the pre-RoPE keys of each layer."""
        cuts = chunk_ends(ids, self.ends)
        cores, raw = self.empty(), [[z[0]] * 1 + [z[0], z[1]] for z in self.empty()]  # raw: pre, k, v
        done, n = 0, 0  # done: tokens already merged
        while n < len(ids):
            if self.taus is not None:
                limit = (n - WINDOW) // EPOCH * EPOCH
                ready = [c for c in cuts if done < c <= limit]
                for c in ready:
                    for i in range(LAYERS):
                        cores[i] = cat_entries(cores[i], self.merge(i, raw[i], done, c))
                    done = c
            blk = ids[n:n + WINDOW]
            _, new = self.step(blk, n, self.view(cores, raw, done))
            for i in range(LAYERS):
                raw[i] = [torch.cat([a, b], 2) for a, b in zip(raw[i], new[i])]
            n += len(blk)
        if self.taus is not None:
            limit = (n - WINDOW) // EPOCH * EPOCH
            for c in [c for c in cuts if done < c <= limit]:
                for i in range(LAYERS):
                    cores[i] = cat_entries(cores[i], self.merge(i, raw[i], done, c))
                done = c
        return self.view(cores, raw, done), [r[0] for r in raw]

    @staticmethod
    def view(cores, raw, done):
        return [cat_entries(c, (r[1][:, :, done:], r[2][:, :, done:], torch.zeros(r[1].shape[2] - done)))
                for c, r in zip(cores, raw)]

    def merge(self, layer, raw, a, b):
        pre, k, v = (t[:, :, a:b] for t in raw)
        s = max(0, min(SINK - a, b - a))
        if s == b - a:
            return k, v, torch.zeros(b - a)
        label = gsc(distances(pre[0, :, None, s:], self.scales[layer]), self.taus[layer])[0]
        uniq, idx = torch.unique(label, return_inverse=True)
        first = torch.full((len(uniq),), 10 ** 6).scatter_reduce(0, idx, torch.arange(b - a - s), "amin")
        order = first.argsort()
        cnt = torch.bincount(idx).float()

        def mean(t):
            z = torch.zeros(1, KV_HEADS, len(uniq), HEAD_DIM).index_add(2, idx, t[:, :, s:].float()) / cnt[:, None]
            return torch.cat([t[:, :, :s], z[:, :, order].to(t.dtype)], 2)

        return mean(k), mean(v), torch.cat([torch.zeros(s), cnt[order].log()])

    def answer(self, cache, n_doc, q, limit=8):
        ids = self.tok.encode(data.QUESTION_PREFIX + q + data.ANSWER_PREFIX, add_special_tokens=False).ids
        out, pos = [], n_doc
        while len(out) < limit:
            logits, new = self.step(ids, pos, cache)
            cache = [cat_entries(c, (k, v, torch.zeros(len(ids)))) for c, (_, k, v) in zip(cache, new)]
            pos += len(ids)
            t = int(logits.argmax())
            if t == self.eos:
                break
            out.append(t)
            ids = [t]
        return self.tok.decode(out).strip()


def cat_entries(a, b):
    return torch.cat([a[0], b[0]], 2), torch.cat([a[1], b[1]], 2), torch.cat([a[2], b[2]])


def sentence_ends(tok):
    text = [tok.decode([i]) for i in range(tok.get_vocab_size())]
    return {i: 0 if t.count("\n") > 1 else 1 for i, t in enumerate(text)
            if t.count("\n") or t.rstrip()[-1:] in ("." , "!", "?")}


def chunk_ends(ids, ends):
    """The chunker's main rules: 16 at a blank line, 32..64 at a sentence end, 128 at most."""
    cuts, start, last = [], 0, 0
    for i, t in enumerate(ids):
        n = i + 1 - start
        lv = ends.get(t)
        if lv == 1 and n >= 32:
            last = i + 1
        if (lv == 0 and n >= 16) or (lv == 1 and n >= 64):
            cuts.append(i + 1)
        elif n >= 128:
            cuts.append(last if last > start else i + 1)
        else:
            continue
        start = cuts[-1]
    return cuts


@torch.no_grad()
def calibrate(p, tok, docs, shares):
    """Head scales, and for each share the threshold per layer that keeps that share of the entries."""
    r = Reader(p, tok)
    pres = [(ids, r.read(ids)[1]) for ids in docs]
    scales, taus = [], {share: [] for share in shares}
    for i in range(LAYERS):
        x = torch.cat([pre[i][0] for _, pre in pres], 1)
        scales.append(x.float().var(dim=1).sum(-1) + 1e-6)
        chunks = []
        for ids, pre in pres:
            cuts = [SINK] + [c for c in chunk_ends(ids, r.ends) if c > SINK + 8]
            chunks += [distances(pre[i][0, :, None, a:b], scales[i])[0] for a, b in zip(cuts, cuts[1:])]
        total, wide = sum(len(d) for d in chunks), max(len(d) for d in chunks)
        dist = torch.full((len(chunks), wide, wide), math.inf)
        for j, d in enumerate(chunks):
            dist[j, :len(d), :len(d)] = d
        padding = len(chunks) * wide - total
        for share in shares:
            lo, hi = 1e-4, 20.0
            for _ in range(12):
                mid = math.sqrt(lo * hi)
                kept = int((gsc(dist, mid) == torch.arange(wide)).sum()) - padding
                lo, hi = (mid, hi) if kept > share * total else (lo, mid)
            taus[share].append(hi)
    return scales, taus


@torch.no_grad()
def evaluate(p, tok, maker, n_tokens, n_docs, n_facts, squeezed=None, detail=None):
    """Exact match of greedy answers on fresh documents, and physical / logical length."""
    r = Reader(p, tok, **(squeezed or {}))
    good = total = phys = logi = 0
    for _ in range(n_docs):
        facts = data.draw_facts(maker.rng, n_facts, 0.15)
        ids, _ = maker.document(n_tokens, facts, title=n_tokens > 300)
        cache, _ = r.read(ids)
        phys += sum(c[0].shape[2] for c in cache) / LAYERS
        logi += len(ids)
        for f in facts:
            a = r.answer(cache, len(ids), data.question(maker.rng, f))
            good += a == f[2]
            total += 1
            if detail is not None:
                d = detail.setdefault(f[0], [0, 0])
                d[0] += a == f[2]
                d[1] += 1
    return good / total, phys / logi


# ---- training -------------------------------------------------------------------------------------

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
        self.groups = {}
        for t in params:
            self.groups.setdefault(tuple(t.shape), []).append(t)
        self.buf = {s: torch.zeros(len(v), *s) for s, v in self.groups.items()}

    @torch.no_grad()
    def step(self, lr):
        for s, ps in self.groups.items():
            g = torch.stack([t.grad for t in ps])
            buf = self.buf[s]
            buf.mul_(0.95).add_(g, alpha=0.05)
            u = orthogonalise(g * 0.05 + buf * 0.95)
            for t, d in zip(ps, u):
                t.mul_(1 - lr * 0.01).add_(d, alpha=-lr * max(1.0, s[0] / s[1]) ** 0.5)


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


def batch(maker, stage, long_tokens=0, bare=False):
    _, n, size, facts, n_q, shared, plain, reach = stage
    n = long_tokens or n
    size = 1 if long_tokens else size
    rng, rows = maker.rng, []
    for _ in range(size):
        if bare:
            ids, w, d, ends = maker.pairs(n, rng.randint(*facts))
        else:
            ids, w, d, ends = maker.sample(n, rng.randint(*facts), n_q, shared, plain)
        rows.append((ids, w, d, positions(rng, n, ends, reach)))
    ids = torch.tensor([r[0] for r in rows])
    w = torch.tensor([r[1] for r in rows])
    return ids, w, rows[0][2], torch.stack([r[3] for r in rows])


def loss_of(p, ids, w, doc, pos, squeeze):
    x = forward(p, ids, pos, doc, squeeze)[:, :-1]
    w, y = w[:, 1:], ids[:, 1:]
    pick = (w >= 1) | ((w > 0) & (torch.rand(w.shape) < 0.25))
    h = x[pick]
    logits = F.linear(h, p["model.embed_tokens.weight"].to(h.dtype)).float()
    ce = F.cross_entropy(logits, y[pick], reduction="none")
    wp = w[pick]
    ans = wp >= 1
    hit = (logits.argmax(-1) == y[pick])[ans & (y[pick] > 1)].float().mean().item()
    return (ce * wp).sum() / wp.sum(), ce[ans].mean().item(), hit


def export(p, tok, out, note):
    from safetensors.torch import save_file
    tmp = out.rstrip("/") + ".tmp"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    save_file({k: v.detach().to(torch.bfloat16).contiguous() for k, v in p.items()},
              os.path.join(tmp, "model.safetensors"), metadata={"format": "pt"})
    bos, eos = tok.token_to_id("<|bos|>"), tok.token_to_id("<|eos|>")
    files = {
        "config.json": {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCAB, "hidden_size": DIM,
            "intermediate_size": FFN, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
            "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "hidden_act": "silu", "rms_norm_eps": EPS,
            "rope_theta": THETA, "rope_scaling": None, "max_position_embeddings": MAX_POS,
            "tie_word_embeddings": True, "attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0,
            "initializer_range": 0.02, "use_cache": True, "bos_token_id": bos, "eos_token_id": eos,
            "torch_dtype": "bfloat16"},
        "generation_config.json": {"bos_token_id": bos, "eos_token_id": [eos], "do_sample": False, "max_new_tokens": 16},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>",
            "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
            "model_max_length": MAX_POS},
        "prompt_format.json": {"question_prefix": data.QUESTION_PREFIX, "answer_prefix": data.ANSWER_PREFIX, "stop": ["\n"]},
    }
    for name, body in files.items():
        with open(os.path.join(tmp, name), "w") as f:
            json.dump(body, f, indent=2)
            f.write("\n")
    tok.save(os.path.join(tmp, "tokenizer.json"))
    os.makedirs(out, exist_ok=True)
    for name in os.listdir(tmp):
        os.replace(os.path.join(tmp, name), os.path.join(out, name))
    os.rmdir(tmp)
    print("exported:", note, flush=True)


def train(args):
    torch.manual_seed(args.seed)
    tok = train_tokenizer(args.seed)
    maker, probe = data.Maker(tok, args.seed), data.Maker(tok, args.seed + 1000, pool=2000)
    p = init_params(args.seed)
    if args.resume:
        from safetensors.torch import load_file
        with torch.no_grad():
            for k, v in load_file(args.resume).items():
                p[k].copy_(v.float())
    mats = [v for k, v in p.items() if v.ndim == 2 and "embed" not in k]
    rest = [v for k, v in p.items() if v.ndim == 1 or "embed" in k]
    muon = Muon(mats)
    adam = torch.optim.AdamW(rest, lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0)
    squeeze = Squeeze()
    total = args.minutes * 60.0
    t0, step, seen, stage_i, acc = time.time(), 0, 0, args.first_stage, 0.0

    def plan():  # when each stage ends, out of the time that is left now
        el, left = time.time() - t0, sum(s[0] for s in STAGES[stage_i:])
        return [el + (total - el) * sum(s[0] for s in STAGES[stage_i:i + 1]) / left for i in range(len(STAGES))]

    ends = plan()
    while True:
        el = time.time() - t0
        if el >= ends[stage_i] or (stage_i < 3 and acc > 0.97):
            with torch.no_grad():
                n = STAGES[stage_i][1] or 4096
                a, _ = evaluate(p, tok, probe, n, 6, 6)
            print("stage %d done: exact match %.3f at %d tokens" % (stage_i, a, n), flush=True)
            export(p, tok, args.out, "stage %d" % stage_i)
            stage_i, acc = stage_i + 1, 0.0
            if stage_i >= len(STAGES):
                break
            ends = plan()
        st = STAGES[stage_i]
        # one step in four is from an earlier stage, so nothing is forgotten
        if stage_i and maker.rng.random() < 0.25:
            st = STAGES[maker.rng.randrange(max(0, stage_i - 2), stage_i)]
        sq = None
        frac = (time.time() - t0) / total
        if stage_i == 0 and maker.rng.random() < 0.2:
            parts = [batch(maker, (0, 40, 32, (4, 4), 0, 0, True, 0), bare=True)]
        elif st[1] == 0:
            n = maker.rng.choice([1024, 1536, 2048, 3072, 4096, 6144])
            sq = squeeze if maker.rng.random() < 0.75 else None
            squeeze.pick = maker.rng.randrange(3)
            parts = [batch(maker, st, n) for _ in range(max(1, 4096 // n))]
        else:
            parts = [batch(maker, st)]
        warm = min(1.0, (step + 1) / 30)
        lr = warm * (1.0 if frac < 0.6 else max(0.04, (1 - frac) / 0.4)) * args.lr
        for t in p.values():
            t.grad = None
        ls = an = hit = 0.0
        for ids, w, doc, pos in parts:
            loss, a, h = loss_of(p, ids, w, doc, pos, sq)
            (loss / len(parts)).backward()
            ls, an, hit = ls + loss.item() / len(parts), an + a / len(parts), hit + h / len(parts)
            seen += ids.numel()
        gn = torch.nn.utils.clip_grad_norm_(rest, 1.0)
        muon.step(0.01 * lr)
        for g in adam.param_groups:
            g["lr"] = 4e-3 * lr
        adam.step()
        step += 1
        acc = 0.95 * acc + 0.05 * hit
        if step % 20 == 0:
            print("%5.1f min step %d stage %d tokens %.2fM loss %.3f answers %.3f hit %.3f (mean %.3f) lr %.2f g %.1f" %
                  ((time.time() - t0) / 60, step, stage_i, seen / 1e6, ls, an, hit, acc, lr, gn), flush=True)
    return p, tok


def load(folder):
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    p = {k: v.float() for k, v in load_file(os.path.join(folder, "model.safetensors")).items()}
    return p, Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))


def setups(p, tok, shares, seed=4242):
    """Arguments of Reader for each share of entries kept; None is the full cache."""
    maker = data.Maker(tok, seed, pool=2000)
    docs = [maker.document(3000, data.draw_facts(maker.rng, 8))[0]]
    scales, taus = calibrate(p, tok, docs, [s for s in shares if s])
    return [{"scales": scales, "taus": taus[s]} if s else {} for s in shares]


def report(folder, seed, sizes, shares):
    """Exact match on fresh documents, with the full cache and with compressed ones."""
    p, tok = load(folder)
    kws = setups(p, tok, shares)
    for n, n_docs in sizes:
        for share, kw in zip(shares, kws):
            maker, detail = data.Maker(tok, seed + n, pool=3000), {}
            a, r = evaluate(p, tok, maker, n, n_docs, 8, kw, detail=detail)
            kinds = " ".join("%s %.2f" % (k, x[0] / x[1]) for k, x in sorted(detail.items()))
            print("%5d tokens, chunks %s, r = %.2f: exact match %.3f of %d (%s)" % (
                n, "exact" if share is None else "to %.2f" % share, r, a, n_docs * 8, kinds), flush=True)


@torch.no_grad()
def sample(folder, seeds, shares=(None, 0.4, 0.22, 0.14), n_words=5100, n_facts=10, n_questions=10):
    """Writes sample/document.txt and questions.json from the first seed whose answers are all right."""
    p, tok = load(folder)
    kws, best = setups(p, tok, shares), None
    for seed in seeds:
        text, facts = data.chronicle(seed, n_words, n_facts)
        rng = random.Random(seed)
        qs = [(data.question(rng, f), f[2]) for f in facts]
        ids = tok.encode(text.rstrip("\n")).ids
        ok = []
        for kw in kws:
            r = Reader(p, tok, **kw)
            cache, _ = r.read(ids)
            size = sum(c[0].shape[2] for c in cache) / LAYERS / len(ids)
            good = [r.answer(cache, len(ids), q) == a for q, a in qs]
            ok.append((sum(good), round(size, 3)))
            if sum(good) < 5:
                break
        print("seed %d: %d tokens, right answers and r: %s" % (seed, len(ids), ok), flush=True)
        if best is None or [x for x, _ in ok] > best[0]:
            best = ([x for x, _ in ok], text, qs)
        if len(ok) == len(kws) and all(x == len(qs) for x, _ in ok):
            break
    out = os.path.join(folder, "sample")
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "document.txt"), "w") as f:
        f.write(best[1])
    with open(os.path.join(out, "questions.json"), "w") as f:
        json.dump([{"q": q, "a": a} for q, a in best[2]], f, indent=2)
        f.write("\n")
    return best[0]


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", required=True)
    ap.add_argument("--minutes", type=float, default=45)
    ap.add_argument("--seed", type=int, default=7)
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--lr", type=float, default=1.0, help="factor on all learning rates")
    ap.add_argument("--resume", help="start from these safetensors (with --first-stage)")
    ap.add_argument("--first-stage", type=int, default=0)
    ap.add_argument("--report", action="store_true", help="measure the model in --out, train nothing")
    ap.add_argument("--sample", action="store_true", help="write the sample document of the model in --out")
    args = ap.parse_args()
    torch.set_num_threads(args.threads)
    random.seed(args.seed)
    if args.report:
        report(args.out, 99000 + args.seed, ((512, 20), (2048, 12), (6144, 6), (8192, 6)), (None, 0.4, 0.22, 0.1))
    elif args.sample:
        sample(args.out, range(1, 40))
    else:
        train(args)


if __name__ == "__main__":
    main()
