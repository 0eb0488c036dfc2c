#!/usr/bin/env python3
"""Writes a Hugging Face model directory with random bf16 weights of a named shape, for benchmarks.

Speed depends on shapes, not on what weights say. Tokenizer and chat files are those of models/demo, so
the vocabulary is the demo's; only the standard library is needed.

    tools/make_bench_model.py --shape 0.1B /tmp/bench-0.1B
"""

import argparse
import json
import os
import pathlib
import shutil
import struct
import sys

DEMO = pathlib.Path(__file__).resolve().parent.parent / "models" / "demo"
SHAPES = {
    # layers, hidden, query heads, KV heads, head_dim, ffn
    "tiny": (4, 256, 8, 4, 32, 512),
    "0.1B": (12, 768, 12, 4, 64, 2048),
    "1B": (16, 2048, 32, 8, 64, 8192),
}
# +-[2^-6, 2^-5): a sign, a fixed exponent and seven random bits of mantissa.
HIGH = bytes(0x3C | (b & 0x80) for b in range(256))
LOW = bytes(0x80 | (b & 0x7F) for b in range(256))


def random_bf16(n):
    data = bytearray(2 * n)
    data[0::2] = os.urandom(n).translate(LOW)
    data[1::2] = os.urandom(n).translate(HIGH)
    return data


def ones_bf16(n):
    return b"\x80\x3f" * n


def tensors(layers, hidden, heads, kv_heads, head_dim, ffn, vocab):
    yield "model.embed_tokens.weight", (vocab, hidden)
    for i in range(layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (hidden,)
        yield p + "self_attn.q_proj.weight", (heads * head_dim, hidden)
        yield p + "self_attn.k_proj.weight", (kv_heads * head_dim, hidden)
        yield p + "self_attn.v_proj.weight", (kv_heads * head_dim, hidden)
        yield p + "self_attn.o_proj.weight", (hidden, heads * head_dim)
        yield p + "post_attention_layernorm.weight", (hidden,)
        yield p + "mlp.gate_proj.weight", (ffn, hidden)
        yield p + "mlp.up_proj.weight", (ffn, hidden)
        yield p + "mlp.down_proj.weight", (hidden, ffn)
    yield "model.norm.weight", (hidden,)


def write(folder, shape, positions):
    layers, hidden, heads, kv_heads, head_dim, ffn = SHAPES[shape]
    demo = json.loads((DEMO / "config.json").read_text())
    vocab = demo["vocab_size"]
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "intermediate_size": ffn,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        if key in demo:
            config[key] = demo[key]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    for name in ("tokenizer.json", "tokenizer_config.json", "prompt_format.json"):
        shutil.copy(DEMO / name, folder / name)
    header, at = {}, 0
    for name, dims in tensors(*SHAPES[shape], vocab):
        n = 2 * dims[0] * (dims[1] if len(dims) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": list(dims), "data_offsets": [at, at + n]}
        at += n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, info in header.items():
            n = (info["data_offsets"][1] - info["data_offsets"][0]) // 2
            out.write(ones_bf16(n) if "norm" in name else random_bf16(n))
    print(f"{folder}: {at / 2 / 1e6:.1f} M parameters, {at / 1e6:.0f} MB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="0.1B")
    parser.add_argument("--positions", type=int, default=32768)
    args = parser.parse_args()
    write(args.folder, args.shape, args.positions)
    return 0


if __name__ == "__main__":
    sys.exit(main())
