"""The demo model: tokenizer, start weights, forward pass, files in Hugging Face format."""

import json
import math
import os
import shutil

import torch
import torch.nn.functional as F

import demo_data as data
import demo_words as words

VOCAB, DIM, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN = 3072, 256, 8, 8, 4, 64, 768
THETA, EPS, MAX_POS = 1e7, 1e-5, 16384
Q_DIM, KV_DIM = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
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
    return stack(p)


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
    for room in (basis[:1], two, four, prev):
        emb -= emb @ room.T @ room
    emb += common
    hd, half, sub = HEAD_DIM, HEAD_DIM // 2, 32
    wider = (hd / 32) ** 0.25  # attention divides by the root of the head's dimension
    gain = 5.5 * wider / (common @ common / (EMBED * 1.27)).item()
    q, k, v, o = (p["model.layers.0.self_attn.%s_proj.weight" % c] for c in "qkvo")
    q *= 0.3
    k *= 0.3
    for speed in (1.0, 0.44, 0.19, 0.085):  # radians a token
        plane = round(-math.log(speed) * half / math.log(THETA))
        theta = THETA ** (-2 * plane / hd)
        for h in range(KV_HEADS):
            k[h * hd + plane] += gain * common
        for h, back in enumerate((1, 2, 1, 3, 2, 4, 1, 5)):
            q[h * hd + plane] += gain * math.cos(-back * theta) * common
            q[h * hd + half + plane] += gain * math.sin(-back * theta) * common
    for h in range(KV_HEADS):
        v[h * hd:h * hd + sub] = word
    for h, room in ((0, prev), (4, two), (5, four)):
        o[:, h * hd:h * hd + sub] = room.T
    q, k, v, o = (p["model.layers.1.self_attn.%s_proj.weight" % c] for c in "qkvo")
    slow = torch.tensor([*range(half - 8, half), *range(hd - 8, hd)])
    for h, ask, have in ((0, four[:16], two[:16]), (1, four[16:], two[16:]), (3, word[:16], prev[:16])):
        k[h * hd:(h + 1) * hd] *= 0.2
        k[h * hd + slow] = 1.6 * wider * have
        for i in (2 * h, 2 * h + 1):
            q[i * hd:(i + 1) * hd] *= 0.2
            q[i * hd + slow] = 1.6 * wider * ask
            o[:, i * hd:i * hd + sub] = copy[min(h, 2)].T
        v[h * hd:h * hd + sub] = copy[min(h, 2)]


def stack(p):
    """The trainer's form of weights under their names in files: one tensor for the same matrix of all layers."""

    def of(*names):
        return torch.stack([torch.cat([p["model.layers.%d.%s.weight" % (i, n)] for n in names]) for i in range(LAYERS)])

    return {"embed": p["model.embed_tokens.weight"], "norm": p["model.norm.weight"],
            "qkv": of("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), "o": of("self_attn.o_proj"),
            "gu": of("mlp.gate_proj", "mlp.up_proj"), "down": of("mlp.down_proj"),
            "ln1": of("input_layernorm"), "ln2": of("post_attention_layernorm")}


def unstack(p):
    """The opposite of stack."""
    out = {"model.embed_tokens.weight": p["embed"], "model.norm.weight": p["norm"]}
    for i in range(LAYERS):
        q, k, v = p["qkv"][i].split([Q_DIM, KV_DIM, KV_DIM])
        gate, up = p["gu"][i].split([FFN, FFN])
        for name, t in (("self_attn.q_proj", q), ("self_attn.k_proj", k), ("self_attn.v_proj", v), ("self_attn.o_proj", p["o"][i]),
                        ("mlp.gate_proj", gate), ("mlp.up_proj", up), ("mlp.down_proj", p["down"][i]),
                        ("input_layernorm", p["ln1"][i]), ("post_attention_layernorm", p["ln2"][i])):
            out["model.layers.%d.%s.weight" % (i, name)] = t
    return out


def rms(x, w):
    y = x.float()
    return (y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + EPS) * w).to(x.dtype)


def rope_table(pos):
    """Cosines and sines of positions [tokens]: [tokens, 1, head_dim / 2]."""
    inv = THETA ** (-torch.arange(0, HEAD_DIM, 2, device=pos.device).float() / HEAD_DIM)
    a = pos.float()[:, None, None] * inv
    return a.cos(), a.sin()


def rotate(x, c, s):
    """x: [..., tokens, heads, head_dim]."""
    a, b = x.float().chunk(2, -1)
    return torch.cat([a * c - b * s, b * c + a * s], -1).to(x.dtype)


def before(x, ln1, qkv, c, s):
    """The part of a layer in front of attention, on tokens in a row: q, k, v, each [tokens, heads, head_dim]."""
    q, k, v = F.linear(rms(x, ln1), qkv).split([Q_DIM, KV_DIM, KV_DIM], -1)
    q, k, v = (t.unflatten(-1, (-1, HEAD_DIM)) for t in (q, k, v))
    return rotate(q, c, s), rotate(k, c, s), v


def after(x, a, o, ln2, gu, down):
    """The part behind attention; a: [tokens, heads * head_dim]."""
    x = x + F.linear(a, o)
    g, u = F.linear(rms(x, ln2), gu).chunk(2, -1)
    return x + F.linear(F.silu(g) * u, down)


def attend(q, k, v):
    """q, k, v: [rows, n, heads, head_dim], each token sees its row up to itself."""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True).transpose(1, 2)


def attend_expanded(q, k, v):
    """As attend, for versions of torch whose kernels want as many K heads as Q heads."""
    g = HEADS // KV_HEADS
    q, k, v = q.transpose(1, 2), k.transpose(1, 2).repeat_interleave(g, 1), v.transpose(1, 2).repeat_interleave(g, 1)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)


def forward(p, ids, pos, n, doc=None, squeeze=None, parts=(before, after, attend), dtype=torch.bfloat16):
    """Hidden states [tokens, dim] in front of the last norm; ids, pos: [tokens], rows of n. With `squeeze`, what is
    behind a row's first `doc` tokens sees these merged."""
    first, last, look = parts
    w = {k: p[k].to(dtype).unbind(0) for k in ("qkv", "o", "gu", "down")}
    ln1, ln2 = p["ln1"].unbind(0), p["ln2"].unbind(0)
    c, s = rope_table(pos)
    x = F.embedding(ids, p["embed"]).to(dtype)
    asks = None if squeeze is None else (torch.arange(n, device=ids.device) >= doc[:, None])[..., None, None]
    for i in range(LAYERS):
        q, k, v = (t.unflatten(0, (-1, n)) for t in first(x, ln1[i], w["qkv"][i], c, s))
        a = look(q, k, v)
        if squeeze is not None:
            a = torch.where(asks, look(q, *squeeze.merge(i, k, v, c, s, doc)), a)
        x = last(x, a.reshape(-1, Q_DIM), w["o"][i], ln2[i], w["gu"][i], w["down"][i])
    return x


# ---- files ----------------------------------------------------------------------------------------

def export(p, tok, out, note):
    """Writes a model directory; p: weights under their names in files."""
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
    return stack(p), Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
