"""The daemon's compression in PyTorch, for training: clusters of a document's keys merged to one entry each.

A merged entry of weight log(count) and `count` equal entries of weight 0 give the same attention. So every token of
a cluster gets the mean key and the mean value, shapes stay what they were, and the usual kernels do the rest.
"""

import torch

from demo_model import HEAD_DIM, KV_HEADS, LAYERS, rotate

SINK, WINDOW, CHUNK = 16, 256, 64
ROUNDS = 20  # clusters of more than one token that a chunk may have


def gsc(dist, tau):
    """Greedy seed clustering of [chunks, m, m] distances; returns the seed of each token [chunks, m]."""
    c, m, _ = dist.shape
    near = dist <= tau
    weight = near.to(torch.bfloat16)  # counts up to 256 are exact
    free = torch.ones(c, m, dtype=torch.bool, device=dist.device)
    label = torch.arange(m, device=dist.device).expand(c, m).clone()
    rank = torch.arange(m - 1, -1, -1, device=dist.device).float()
    for _ in range(ROUNDS):
        deg = (weight @ free[..., None].to(torch.bfloat16))[..., 0].float() * free
        best = (deg * m + rank).argmax(-1)[:, None]
        live = deg.gather(1, best) > 1
        member = near.gather(1, best[..., None].expand(-1, 1, m))[:, 0] & free & live
        label = torch.where(member, best, label)
        free &= ~member
    return label


class Squeeze:
    """Merges documents at a share of entries kept that is drawn per step. The threshold of each layer follows the
    share it produced (a slow controller)."""

    SHARES = [0.5, 0.33, 0.22]

    def __init__(self, device):
        self.log_tau = torch.full((len(self.SHARES), LAYERS), -1.0, device=device)
        self.pick, self.follow = 0, True
        self.kept = None  # the share the last layer produced

    def merge(self, layer, k, v, c, s, doc):
        """k, v: [rows, n, kv_heads, head_dim]; c, s: rope_table; doc: tokens of each row's document."""
        rows, n = k.shape[:2]
        chunks = (n - SINK) // CHUNK
        hi = SINK + chunks * CHUNK
        last = SINK + CHUNK * (1 + torch.arange(chunks, device=k.device))
        active = (last <= doc[:, None] - WINDOW).flatten()  # [rows * chunks]
        with torch.no_grad():
            c, s = (t.unflatten(0, (rows, n))[:, SINK:hi] for t in (c, s))
            x = rotate(k[:, SINK:hi].float(), c, -s).view(rows, chunks, CHUNK, KV_HEADS, HEAD_DIM)  # before RoPE
            on = active.view(rows, chunks, 1, 1, 1)
            count = on.sum((1, 2), keepdim=True).clamp_min(1) * CHUNK
            centre = (x * on).sum((1, 2), keepdim=True) / count
            scale = (((x - centre) ** 2) * on).sum((1, 2), keepdim=True).div(count).sum(-1, keepdim=True) + 1e-6
            x = (x * scale.rsqrt()).view(rows * chunks, CHUNK, -1)
            sq = (x * x).sum(-1)
            dist = (sq[:, :, None] + sq[:, None] - 2 * x @ x.transpose(1, 2)).clamp_min(0)
            log_tau = self.log_tau[self.pick, layer]
            label = gsc(dist, log_tau.exp())
            itself = torch.arange(CHUNK, device=k.device)
            label = torch.where(active[:, None], label, itself)
            got = ((label == itself) & active[:, None]).sum() / (active.sum() * CHUNK).clamp_min(1)
            self.kept = got
            if self.follow:
                log_tau += 0.5 * (got - self.SHARES[self.pick]) * (active.sum() > 0)
            same = (label[:, :, None] == label[:, None]).float()
            same /= same.sum(-1, keepdim=True)

        def mean(t):
            z = same @ t[:, SINK:hi].reshape(rows * chunks, CHUNK, -1).float()
            return torch.cat([t[:, :SINK], z.view(rows, -1, KV_HEADS, HEAD_DIM).to(t.dtype), t[:, hi:]], 1)

        return mean(k), mean(v)
