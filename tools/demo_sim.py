"""The daemon's compression in PyTorch, for training and for reports: clusters of the document's keys merged
to one entry each, and a reader that answers questions from an exact or a merged cache."""

import math

import torch
import torch.nn.functional as F

import demo_data as data
from demo_model import HEAD_DIM, KV_HEADS, LAYERS, after, attend, before, layer_weights, rms, rope_table

SINK, WINDOW, EPOCH = 16, 256, 512


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


# ---- reading: a cache that may be compressed, and greedy answers ---------------------------------

class Reader:
    """Runs a document through the model in blocks, with an exact or a compressed cache, and answers
    questions from it. Streaming as the daemon does it: at position t every chunk that ends at or
    before floor((t - WINDOW) / EPOCH) * EPOCH is merged, the rest and the first SINK are exact."""

    def __init__(self, p, tok, taus=None, scales=None, dtype=torch.float32):
        self.p, self.tok, self.taus, self.scales, self.dtype = p, tok, taus, scales, dtype
        self.eos = tok.token_to_id("<|eos|>")
        p = {k: v.detach() for k, v in p.items()}
        self.w = [layer_weights(p, i, dtype) for i in range(LAYERS)]
        self.embed, self.norm = p["model.embed_tokens.weight"].to(dtype), p["model.norm.weight"]
        self.ends = sentence_ends(tok)

    def step(self, ids, pos0, cache):
        """cache: per layer (k, v, bias). Returns the final hidden states and the new entries."""
        n = len(ids)
        x = self.embed[torch.tensor(ids)][None]
        c, s = rope_table(torch.arange(pos0, pos0 + n)[None], self.dtype)
        new = []
        for i in range(LAYERS):
            q, pre, k, v = before(x, self.w[i], c, s)
            ck, cv, cb = cache[i]
            mask = torch.cat([cb.expand(n, -1), torch.full((n, n), -1e9).triu(1)], 1).to(self.dtype)
            x = after(x, attend(q, torch.cat([ck, k], 2), torch.cat([cv, v], 2), mask), self.w[i])
            new.append((pre, k, v))
        return rms(x[0], self.norm), new

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

    def right(self, cache, n_doc, q, answer):
        """Whether the greedy answer is `answer`: every token of it is the likeliest after those before."""
        ids = self.tok.encode(data.QUESTION_PREFIX + q + data.ANSWER_PREFIX, add_special_tokens=False).ids
        want = self.tok.encode(" " + answer, add_special_tokens=False).ids + [self.eos]
        h, _ = self.step(ids + want[:-1], n_doc, cache)
        return F.linear(h[len(ids) - 1:], self.embed).argmax(-1).tolist() == want


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


