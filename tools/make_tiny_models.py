#!/usr/bin/env python3
"""Makes tests/golden/: tiny random models of every family and what transformers computes for them.

Usage: make_tiny_models.py [--out tests/golden] [--check]

Needs torch, transformers, safetensors and tokenizers; the tests themselves need none of them.
Each model directory is a Hugging Face directory (config.json, safetensors, tokenizer.json) plus
golden.json and logits.f32; tests/golden/README.md describes both. Logits are computed from the
written files, in float32 with eager attention on the CPU. --check loads every directory again and
compares instead of writing.
"""

import argparse
import hashlib
import json
import shutil
import sys
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

VOCAB = 256
BOS, EOS, PAD = 0, 1, 2
PROMPT_LENGTHS = (1, 7, 18, 64)
GREEDY_PROMPT, GREEDY_TOKENS = 2, 24
TOLERANCE = 2e-5  # between two runs of transformers on different machines


def base_config(architecture, model_type, **fields):
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "hidden_act": "silu",
        "vocab_size": VOCAB,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "use_cache": True,
    }
    config.update(fields)
    return config


# The configs are written by hand so that both generations of the format occur: rope_scaling,
# torch_dtype and `type` of old files, rope_parameters, dtype and layer_types of new ones.
SPECS = {
    "llama31": {
        "config": base_config(
            "LlamaForCausalLM", "llama", rope_theta=10000.0, torch_dtype="float32",
            attention_bias=False, mlp_bias=False, pretraining_tp=1,
            eos_token_id=[EOS, PAD],
            rope_scaling={"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 64, "rope_type": "llama3"}),
        "generation": {"bos_token_id": BOS, "do_sample": True, "eos_token_id": [EOS, PAD],
                       "temperature": 0.6, "top_p": 0.9},
    },
    "llama-linear": {  # 2 KV heads: fewer than four ranks, so heads are replicated
        "config": base_config(
            "LlamaForCausalLM", "llama", num_key_value_heads=2, dtype="float32", head_dim=8,
            rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    },
    "llama-yarn": {  # beta_fast 8 puts one of the four frequencies inside the ramp
        "config": base_config(
            "LlamaForCausalLM", "llama", rope_theta=10000.0, torch_dtype="float32",
            max_position_embeddings=1024,
            rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 256,
                          "beta_fast": 8.0, "beta_slow": 1.0}),
    },
    "mistral": {
        "config": base_config(
            "MistralForCausalLM", "mistral", sliding_window=16, dtype="float32", head_dim=None,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0}),
        "shards": 3,
    },
    "qwen2": {  # the last two layers have a window, the first sees all
        "config": base_config(
            "Qwen2ForCausalLM", "qwen2", num_hidden_layers=3, tie_word_embeddings=True,
            rms_norm_eps=1e-6, rope_theta=1000000.0, torch_dtype="float32", bos_token_id=None,
            use_sliding_window=True, sliding_window=12, max_window_layers=1,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"]),
        "generation": {"do_sample": False, "eos_token_id": [EOS, PAD], "repetition_penalty": 1.05,
                       "temperature": 0.7, "top_p": 0.8, "top_k": 20},
    },
    "qwen3": {  # head_dim 16, though hidden / heads is 8
        "config": base_config(
            "Qwen3ForCausalLM", "qwen3", head_dim=16, tie_word_embeddings=True, rms_norm_eps=1e-6,
            dtype="float32", attention_bias=False, use_sliding_window=False, sliding_window=None,
            max_window_layers=2, layer_types=["full_attention"] * 2,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000}),
    },
    "llama31-bf16": {"copy_of": "llama31", "dtype": torch.bfloat16},
    "qwen2-f16": {"copy_of": "qwen2", "dtype": torch.float16},
}

# Rope settings of real models, and corners; only the frequencies are compared.
ROPE_CASES = {
    "llama2-7b": {"rope_theta": 10000.0, "max_position_embeddings": 4096, "head_dim": 128},
    "llama3-8b": {"rope_theta": 500000.0, "max_position_embeddings": 8192, "head_dim": 128},
    "llama3.1-8b": {
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "head_dim": 128,
        "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    "llama3.2-1b": {
        "rope_theta": 500000.0, "max_position_embeddings": 131072, "head_dim": 64,
        "rope_scaling": {"factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                         "original_max_position_embeddings": 8192, "rope_type": "llama3"}},
    "vicuna-16k": {"rope_theta": 10000, "max_position_embeddings": 4096, "head_dim": 128,
                   "rope_scaling": {"factor": 4.0, "type": "linear"}},
    "qwen2.5-yarn": {
        "rope_theta": 1000000.0, "max_position_embeddings": 32768, "head_dim": 128,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768,
                         "type": "yarn"}},
    "yarn-no-truncate": {
        "rope_theta": 150000, "max_position_embeddings": 131072, "head_dim": 64,
        "rope_scaling": {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0,
                         "original_max_position_embeddings": 4096, "truncate": False}},
    "yarn-mscale": {
        "rope_theta": 10000, "max_position_embeddings": 163840, "head_dim": 64,
        "rope_scaling": {"rope_type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
                         "original_max_position_embeddings": 4096, "mscale": 0.707,
                         "mscale_all_dim": 1.0}},
    "yarn-attention-factor": {
        "rope_theta": 10000.0, "max_position_embeddings": 8192, "head_dim": 96,
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "attention_factor": 1.25,
                         "original_max_position_embeddings": 4096}},
    "yarn-implicit-factor": {
        "rope_theta": 10000.0, "max_position_embeddings": 16384, "head_dim": 80,
        "rope_scaling": {"rope_type": "yarn", "factor": None,
                         "original_max_position_embeddings": 4096}},
    "mistral-nemo": {"rope_theta": 1000000.0, "max_position_embeddings": 131072, "head_dim": 128},
    "head-dim-2": {"rope_theta": 10000.0, "max_position_embeddings": 2048, "head_dim": 2},
    "head-dim-256": {"rope_theta": 5000000.0, "max_position_embeddings": 262144, "head_dim": 256},
}


def byte_level_alphabet():
    """Byte -> printable character, as GPT-2's tokenizer maps them."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {b: chr(b) for b in keep}
    spare = 256
    for b in range(256):
        if b not in table:
            table[b] = chr(spare)
            spare += 1
    return table


def make_tokenizer(path):
    """3 special tokens, the 243 bytes that occur in UTF-8, and 10 merges: 256 ids."""
    table = byte_level_alphabet()
    never = {0xC0, 0xC1, *range(0xF5, 0x100)}
    vocab = {"<s>": BOS, "</s>": EOS, "<pad>": PAD}
    for b in range(256):
        if b not in never:
            vocab[table[b]] = len(vocab)
    space = table[0x20]
    merges = [("t", "h"), ("th", "e"), (space, "the"), ("i", "n"), ("e", "r"), ("a", "n"),
              ("an", "d"), (space, "and"), (space, "a"), ("o", "n")]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    assert len(vocab) == VOCAB
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens(["<s>", "</s>", "<pad>"])
    tok.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)])
    tok.save(str(path / "tokenizer.json"), pretty=False)
    write_json(path / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "<pad>", "clean_up_tokenization_spaces": False, "model_max_length": 512})


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def seed_of(name):
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")


def random_weights(config):
    """Large enough that attention is far from uniform and every norm weight and bias matters."""
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float32)
    gen = torch.Generator().manual_seed(seed_of(config["model_type"]))
    state = {}
    for name, param in sorted(model.state_dict().items()):
        if name == "lm_head.weight" and config["tie_word_embeddings"]:
            continue
        noise = torch.randn(param.shape, generator=gen)
        if name.endswith("norm.weight"):
            state[name] = 1.0 + 0.3 * noise
        elif name.endswith(".bias"):
            state[name] = 0.5 * noise
        elif "embed_tokens" in name:
            state[name] = noise * 0.5
        else:
            state[name] = noise * (1.5 / param.shape[1] ** 0.5)
    return state


def save_weights(path, state, n_shards):
    if n_shards == 1:
        save_file(state, str(path / "model.safetensors"), metadata={"format": "pt"})
        return
    names = list(state)
    weight_map, total = {}, 0
    for shard in range(n_shards):
        file = f"model-{shard + 1:05d}-of-{n_shards:05d}.safetensors"
        part = {n: state[n] for n in names[shard::n_shards]}
        save_file(part, str(path / file), metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
        total += sum(t.numel() * t.element_size() for t in part.values())
    write_json(path / "model.safetensors.index.json",
               {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))})


def load(path):
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, attn_implementation="eager", local_files_only=True)
    return model.eval()


def prompts_of(name, lengths):
    gen = torch.Generator().manual_seed(seed_of(name) ^ 0x5EED)
    return [[BOS] + torch.randint(3, VOCAB, (n - 1,), generator=gen).tolist() for n in lengths]


@torch.no_grad()
def logits_of(model, ids):
    return model(torch.tensor([ids]), use_cache=False).logits[0].float()


@torch.no_grad()
def greedy_of(model, ids):
    """Greedy continuation, and the smallest distance between the best two logits on the way."""
    ids, out, margin = list(ids), [], float("inf")
    for _ in range(GREEDY_TOKENS):
        top = torch.topk(logits_of(model, ids)[-1], 2)
        margin = min(margin, (top.values[0] - top.values[1]).item())
        out.append(top.indices[0].item())
        ids.append(out[-1])
    return out, margin


def compute(path):
    model = load(path)
    lengths = PROMPT_LENGTHS if "-" not in path.name or path.name.startswith("llama-") else (7, 40)
    prompts = prompts_of(path.name, lengths)
    logits = [logits_of(model, p) for p in prompts]
    greedy_at = min(GREEDY_PROMPT, len(prompts) - 1)
    greedy, margin = greedy_of(model, prompts[greedy_at])
    rotary = model.model.rotary_emb
    return {
        "prompts": prompts,
        "logits": torch.cat(logits),
        "greedy": {"prompt": greedy_at, "ids": greedy, "min_margin": margin},
        "rope": {"inv_freq": rotary.inv_freq.tolist(), "scale": float(rotary.attention_scaling)},
    }


def write_golden(path, result):
    offset, prompts = 0, []
    for ids in result["prompts"]:
        prompts.append({"ids": ids, "first_row": offset})
        offset += len(ids)
    data = result["logits"].contiguous().numpy().astype("<f4").tobytes()
    (path / "logits.f32").write_bytes(data)
    golden = {
        "made_by": f"transformers {transformers.__version__}, torch {torch.__version__}",
        "vocab": VOCAB, "rows": offset, "logits_file": "logits.f32",
        "logits_sha256": hashlib.sha256(data).hexdigest(),
        "prompts": prompts, "greedy": result["greedy"], "rope": result["rope"],
    }
    (path / "golden.json").write_text(json.dumps(golden) + "\n")


def check_golden(path, result):
    golden = json.loads((path / "golden.json").read_text())
    data = (path / "logits.f32").read_bytes()
    if hashlib.sha256(data).hexdigest() != golden["logits_sha256"]:
        return "logits.f32 does not match logits_sha256"
    if [p["ids"] for p in golden["prompts"]] != result["prompts"]:
        return "prompts differ"
    stored = torch.frombuffer(bytearray(data), dtype=torch.float32).view(-1, VOCAB)
    worst = (stored - result["logits"]).abs().max().item()
    if stored.shape != result["logits"].shape or worst > TOLERANCE:
        return f"logits differ by {worst}, limit {TOLERANCE}"
    if golden["greedy"]["ids"] != result["greedy"]["ids"]:
        return "greedy ids differ"
    if golden["rope"] != result["rope"]:
        return "rope differs"
    print(f"{path.name}: equal, worst logit difference {worst:.2e}, "
          f"smallest greedy margin {golden['greedy']['min_margin']:.3f}")
    return None


def rope_cases():
    cases = []
    for name, fields in ROPE_CASES.items():
        config = base_config("LlamaForCausalLM", "llama", **fields)
        hf = AutoConfig.for_model(**json.loads(json.dumps(config)))
        kind = hf.rope_parameters["rope_type"]
        if kind == "default":
            rotary = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(hf)
            inv_freq, scale = rotary.inv_freq, rotary.attention_scaling
        else:
            inv_freq, scale = ROPE_INIT_FUNCTIONS[kind](hf, None)
        cases.append({"name": name, "config": config, "inv_freq": inv_freq.tolist(),
                      "scale": float(scale)})
    return {"made_by": f"transformers {transformers.__version__}", "cases": cases}


def build(out, name, spec):
    path = out / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    source = SPECS[spec["copy_of"]] if "copy_of" in spec else spec
    config = json.loads(json.dumps(source["config"]))
    state = random_weights(config)
    dtype = spec.get("dtype", torch.float32)
    key = "torch_dtype" if "torch_dtype" in config else "dtype"
    config[key] = str(dtype).removeprefix("torch.")
    write_json(path / "config.json", config)
    if "generation" in source:
        write_json(path / "generation_config.json", source["generation"])
    save_weights(path, {n: t.to(dtype) for n, t in state.items()}, spec.get("shards", 1))
    make_tokenizer(path)
    write_golden(path, compute(path))
    for file in path.iterdir():
        file.chmod(0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path,
                        default=Path(__file__).resolve().parent.parent / "tests" / "golden")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)  # one order of additions
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    failures = 0
    for name, spec in SPECS.items():
        if not args.check:
            build(args.out, name, spec)
        problem = check_golden(args.out / name, compute(args.out / name))
        if problem is not None:
            print(f"{name}: {problem}", file=sys.stderr)
            failures += 1
    rope_file = args.out / "rope.json"
    if not args.check:
        rope_file.write_text(json.dumps(rope_cases()) + "\n")
    if json.loads(rope_file.read_text())["cases"] != rope_cases()["cases"]:
        print("rope.json differs", file=sys.stderr)
        failures += 1
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
