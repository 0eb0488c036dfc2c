"""The demo model: tokenizer, start weights, forward pass, files in Hugging Face format."""

import json
import math
import os
import shutil

import torch
import torch.nn.functional as F

import demo_data as data
import demo_words as words

VOCAB, DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 3072, 256, 6, 8, 4, 32, 640
THETA, EPS, MAX_POS = 500000.0, 1e-5, 16384
EMBED = 0.4  # large beside what a layer adds, or the layers bury the token itself; the final norm scales it back
REGEX = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?\p{N}{1,2}| ?[^\s\p{L}\p{N}]+"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")
CHAT_TEMPLATE = (  # the document is the system message, or the start of the first user message
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}"
    "{{ '\\n\\nQuestion: ' + m['content'] + '\\nAnswer:' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}")


# ---- tokenizer ------------------------------------------------------------------------------------

def train_tokenizer(seed):
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tok = Tokenizer(models.BPE())

    def split(pattern):
        return pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<|bos|>", "<|eos|>"], show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    # while merges are learned, a town of two parts is cut between them
    ends = "|".join(words.TOWN_B)
    heads = "|".join(words.TOWN_A)
    tok.pre_tokenizer = split(r" (?:%s)(?=(?:%s)(?!\p{L}))|(?<=\p{L})(?:%s)(?!\p{L})|" % (heads, ends, ends) + REGEX)
    tok.train_from_iterator(data.corpus(seed, 6000), trainer)
    tok.pre_tokenizer = split(REGEX)
    tok.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", tok.token_to_id("<|bos|>"))])
    return tok


def token_counts(tok):
    """Words and names that are not cut as they should be: (text, tokens)."""
    want = [(w, 1) for pool in (words.PEOPLE, words.TOWNS, words.SHIPS, words.COLOURS, words.TRADES, words.GOODS,
                                words.MONTHS, words.SURNAMES, words.SHIP_ADJ, words.NOUNS, words.ADJECTIVES)
            for w in pool]
    want += [(a + b, 2) for a in words.TOWN_A for b in words.TOWN_B]
    return [(w, len(tok.encode(" " + w, add_special_tokens=False).ids), n) for w, n in want
            if len(tok.encode(" " + w, add_special_tokens=False).ids) != n]


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
    return p


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
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + EPS) * w).to(x.dtype)


def rope_table(pos, dtype):
    """Cosines and sines of [batch, n] positions: [batch, n, 1, head_dim / 2]."""
    inv = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
    a = pos.float()[..., None, None] * inv
    return a.cos().to(dtype), a.sin().to(dtype)


def rotate(x, c, s):
    """x: [batch, n, heads, head_dim]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * c - b * s, b * c + a * s], -1)


def before(x, w, c, s):
    """The part of a layer in front of attention: q, pre-RoPE k, k, v, each [batch, heads, n, head_dim]."""
    b, n, _ = x.shape
    y = F.linear(rms(x, w["input_layernorm"]), w["qkv"])
    q, k, v = y.split([HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM], -1)
    q, k, v = (t.view(b, n, -1, HEAD_DIM) for t in (q, k, v))
    return tuple(t.transpose(1, 2) for t in (rotate(q, c, s), k, rotate(k, c, s), v))


def after(x, o, w):
    b, n, _ = x.shape
    x = x + F.linear(o.transpose(1, 2).reshape(b, n, -1), w["o"])
    g, u = F.linear(rms(x, w["post_attention_layernorm"]), w["gu"]).chunk(2, -1)
    return x + F.linear(F.silu(g) * u, w["down"])


def attend(q, k, v, mask=None):
    g = HEADS // KV_HEADS
    return F.scaled_dot_product_attention(q, k.repeat_interleave(g, 1), v.repeat_interleave(g, 1), mask,
                                          is_causal=mask is None)


def layer(x, w, c, s):
    q, _, k, v = before(x, w, c, s)
    return after(x, attend(q, k, v), w)


def layer_weights(p, i, dtype):
    b = "model.layers.%d." % i
    w = {k: p[b + k + ".weight"] for k in ("input_layernorm", "post_attention_layernorm")}
    w["qkv"] = torch.cat([p[b + "self_attn.%s_proj.weight" % c] for c in "qkv"]).to(dtype)
    w["gu"] = torch.cat([p[b + "mlp.gate_proj.weight"], p[b + "mlp.up_proj.weight"]]).to(dtype)
    w["o"], w["down"] = p[b + "self_attn.o_proj.weight"].to(dtype), p[b + "mlp.down_proj.weight"].to(dtype)
    return w


def forward(p, ids, pos, doc=0, squeeze=None, dtype=torch.bfloat16, run=layer):
    """Hidden states [batch, n, dim]. With `squeeze`, tokens from `doc` on see the document merged."""
    x = p["model.embed_tokens.weight"][ids].to(dtype)
    c, s = rope_table(pos, dtype)
    for i in range(LAYERS):
        w = layer_weights(p, i, dtype)
        if squeeze is None:
            x = run(x, w, c, s)
            continue
        q, pre, k, v = before(x, w, c, s)
        kd, vd, bias = squeeze.merge(i, pre[:, :, :doc], k[:, :, :doc], v[:, :, :doc])
        t = ids.shape[1] - doc
        mask = torch.cat([bias.expand(t, -1), torch.full((t, t), -1e4).triu(1)], 1).to(dtype)
        x = after(x, torch.cat([
            attend(q[:, :, :doc], k[:, :, :doc], v[:, :, :doc]),
            attend(q[:, :, doc:], torch.cat([kd, k[:, :, doc:]], 2), torch.cat([vd, v[:, :, doc:]], 2), mask)], 2), w)
    return rms(x, p["model.norm.weight"])


# ---- files ----------------------------------------------------------------------------------------

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
        "generation_config.json": {"bos_token_id": bos, "eos_token_id": [eos], "do_sample": False, "max_new_tokens": 24},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|bos|>", "eos_token": "<|eos|>",
            "add_bos_token": True, "add_eos_token": False, "clean_up_tokenization_spaces": False,
            "model_max_length": MAX_POS, "chat_template": CHAT_TEMPLATE},
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


def load(folder):
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    p = {k: v.float() for k, v in load_file(os.path.join(folder, "model.safetensors")).items()}
    return p, Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
