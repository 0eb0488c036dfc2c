#!/usr/bin/env python3
"""A peer for bench-engine on a GPU: the same shapes in PyTorch, with scaled_dot_product_attention over a
contiguous cache and every decode step replayed from a CUDA graph.

    bench/torch_decode.py --shape Llama-3.1-8B --decode-depth 2048,32768 --seqs 1,4 --prefill 8192

Random weights; no compression. Without PyTorch or a GPU it says so and exits 77.
"""
import argparse
import json
import statistics
import sys
import time

SHAPES = {  # layers, hidden, heads, KV heads, head_dim, ffn, vocab
    "1B": (16, 2048, 32, 8, 64, 8192, 32000),
    "Llama-3.1-8B": (32, 4096, 32, 8, 128, 14336, 128256),
}


def numbers(text):
    return [] if text == "none" else [int(x) for x in text.split(",")]


def parse():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--shape", default="Llama-3.1-8B", choices=SHAPES)
    p.add_argument("--decode-depth", type=numbers, default=[2048, 32768])
    p.add_argument("--seqs", type=numbers, default=[1, 4])
    p.add_argument("--prefill", type=numbers, default=[2048, 8192])
    p.add_argument("--steps", type=int, default=32)
    p.add_argument("--json", help="the result, also as JSON")
    return p.parse_args()


class Model:
    def __init__(self, torch, shape):
        self.torch = torch
        (self.layers, self.hidden, self.heads, self.kv_heads, self.head_dim, self.ffn, self.vocab) = shape
        self.q = self.heads * self.head_dim
        self.kv = self.kv_heads * self.head_dim

        def w(rows, cols):
            return torch.empty(rows, cols, dtype=torch.bfloat16, device="cuda").uniform_(-0.02, 0.02)
        self.embed = w(self.vocab, self.hidden)
        self.head = w(self.vocab, self.hidden)
        self.weights = [(w(self.q + 2 * self.kv, self.hidden), w(self.hidden, self.q),
                         w(2 * self.ffn, self.hidden), w(self.hidden, self.ffn)) for _ in range(self.layers)]
        self.one = torch.ones(self.hidden, dtype=torch.bfloat16, device="cuda")
        inv = 1.0 / (500000.0 ** (torch.arange(0, self.head_dim, 2, device="cuda").float() / self.head_dim))
        self.inv_freq = inv

    def rotate(self, x, angles):
        half = self.head_dim // 2
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        a, b = x[..., :half], x[..., half:]
        return self.torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

    def forward(self, tokens, positions, caches, causal):
        """tokens [batch, n]; caches: None, or per layer (k, v) [batch, kv heads, context + 1, head_dim] whose last
        entry is this token's."""
        F = self.torch.nn.functional
        x = F.embedding(tokens, self.embed)
        batch, n, _ = x.shape
        angles = positions.float()[:, None] * self.inv_freq
        for i, (qkv, o, gate_up, down) in enumerate(self.weights):
            y = F.linear(F.rms_norm(x, (self.hidden,), self.one, 1e-5), qkv)
            q, k, v = y.split((self.q, self.kv, self.kv), -1)
            q = self.rotate(q.view(batch, n, self.heads, -1).transpose(1, 2), angles)
            k = self.rotate(k.view(batch, n, self.kv_heads, -1).transpose(1, 2), angles)
            v = v.view(batch, n, self.kv_heads, -1).transpose(1, 2)
            if caches is not None:
                caches[i][0][:, :, -n:] = k
                caches[i][1][:, :, -n:] = v
                k, v = caches[i]
            a = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
            x = x + F.linear(a.transpose(1, 2).reshape(batch, n, -1), o)
            y = F.linear(F.rms_norm(x, (self.hidden,), self.one, 1e-5), gate_up)
            g, u = y.chunk(2, -1)
            x = x + F.linear(F.silu(g) * u, down)
        return F.linear(F.rms_norm(x[:, -1], (self.hidden,), self.one, 1e-5), self.head).argmax(-1)

    def caches(self, batch, context):
        torch = self.torch
        shape = (batch, self.kv_heads, context + 1, self.head_dim)
        return [tuple(torch.empty(shape, dtype=torch.bfloat16, device="cuda").uniform_(-1, 1) for _ in range(2))
                for _ in range(self.layers)]


def timed(torch, run, n):
    torch.cuda.synchronize()
    samples = []
    for _ in range(n):
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples)


def decode(torch, model, batch, context, steps):
    need = 2 * 2 * batch * (context + 1) * model.kv * model.layers
    free, _ = torch.cuda.mem_get_info()
    if need > free - (2 << 30):
        print(f"decode  {batch:3} x {context:7}: left out, {need >> 30} GiB of cache, {free >> 30} GiB free")
        return None
    caches = model.caches(batch, context)
    tokens = torch.zeros(batch, 1, dtype=torch.long, device="cuda")
    positions = torch.tensor([context], device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            model.forward(tokens, positions, caches, False)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.forward(tokens, positions, caches, False)
    s = timed(torch, graph.replay, steps)
    print(f"decode  {batch:3} x {context:7}: {1e3 * s:8.3f} ms a step, {batch / s:8.1f} tokens/s")
    return {"kind": "decode", "seqs": batch, "depth": context, "ms": 1e3 * s}


def main():
    args = parse()
    try:
        import torch
    except ImportError:
        print("torch_decode: PyTorch is not installed")
        return 77
    if not torch.cuda.is_available():
        print("torch_decode: no GPU")
        return 77
    rows = []
    print(f"PyTorch {torch.__version__}, {torch.cuda.get_device_name()}, {args.shape}")
    with torch.inference_mode():
        model = Model(torch, SHAPES[args.shape])
        for n in args.prefill:
            tokens = torch.zeros(1, n, dtype=torch.long, device="cuda")
            positions = torch.arange(n, device="cuda")
            model.forward(tokens, positions, None, True)
            s = timed(torch, lambda: model.forward(tokens, positions, None, True), 3)
            print(f"prefill {n:13}: {1e3 * s:8.1f} ms, {n / s:8.0f} tokens/s")
            rows.append({"kind": "prefill", "tokens": n, "ms": 1e3 * s})
        for context in args.decode_depth:
            for batch in args.seqs:
                row = decode(torch, model, batch, context, args.steps)
                rows += [row] if row else []
                torch.cuda.empty_cache()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"torch": torch.__version__, "device": torch.cuda.get_device_name(), "shape": args.shape,
                       "rows": rows}, f, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
