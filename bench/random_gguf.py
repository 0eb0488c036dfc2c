#!/usr/bin/env python3
"""Writes a GGUF of a Llama shape with random weights and a dummy vocabulary, for bench/compare-llama.cpp.

    random_gguf.py --shape 12,768,12,4,64,2048,4096 --type bf16 OUT.gguf

The shape is layers, hidden, heads, KV heads, head_dim, ffn, vocabulary. Needs numpy and gguf from PyPI. Speed does not
depend on what weights say: matrices of one shape are the same block of numbers.
"""

import argparse
import pathlib
import sys

import gguf
import numpy as np

TYPES = {
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
}


def tensors(layers, hidden, heads, kv_heads, head_dim, ffn, vocab, tied):
    yield "token_embd.weight", (vocab, hidden)
    for i in range(layers):
        p = f"blk.{i}."
        yield p + "attn_norm.weight", (hidden,)
        yield p + "attn_q.weight", (heads * head_dim, hidden)
        yield p + "attn_k.weight", (kv_heads * head_dim, hidden)
        yield p + "attn_v.weight", (kv_heads * head_dim, hidden)
        yield p + "attn_output.weight", (hidden, heads * head_dim)
        yield p + "ffn_norm.weight", (hidden,)
        yield p + "ffn_gate.weight", (ffn, hidden)
        yield p + "ffn_up.weight", (ffn, hidden)
        yield p + "ffn_down.weight", (hidden, ffn)
    yield "output_norm.weight", (hidden,)
    if not tied:
        yield "output.weight", (vocab, hidden)


def add_vocabulary(writer, vocab):
    """<unk>, <s>, </s>, the bytes, and filler: what a SentencePiece vocabulary must have to load."""
    tokens = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % b for b in range(256)]
    kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.BYTE] * 256
    n_filler = vocab - len(tokens)
    if n_filler < 0:
        sys.exit(f"random_gguf: a vocabulary of {vocab}, at least {len(tokens)} are needed")
    tokens += [b"t%d" % i for i in range(n_filler)]
    kinds += [gguf.TokenType.NORMAL] * n_filler
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def write(out, shape, kind, tied, positions):
    layers, hidden, heads, kv_heads, head_dim, ffn, vocab = shape
    qtype, ftype = TYPES[kind]
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(positions)
    writer.add_embedding_length(hidden)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(500000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(vocab)
    writer.add_file_type(ftype)
    add_vocabulary(writer, vocab)
    made, order = {}, []
    for name, dims in tensors(*shape, tied):
        if len(dims) == 1:
            data, raw = np.ones(dims, dtype=np.float32), None
        else:
            if dims not in made:
                values = rng.standard_normal(dims, dtype=np.float32) * np.float32(1 / np.sqrt(dims[1]))
                made[dims] = gguf.quants.quantize(values, qtype)
            data, raw = made[dims], qtype
        writer.add_tensor_info(name, data.shape, data.dtype, data.nbytes, raw_dtype=raw)
        order.append(data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for data in order:
        writer.write_tensor_data(data)
    writer.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--type", choices=sorted(TYPES), default="bf16")
    parser.add_argument("--untied", action="store_true", help="an output matrix of its own")
    parser.add_argument("--positions", type=int, default=131072)
    args = parser.parse_args()
    shape = [int(n) for n in args.shape.split(",")]
    part = args.out.with_name(args.out.name + ".part")
    write(part, shape, args.type, not args.untied, args.positions)
    part.rename(args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
