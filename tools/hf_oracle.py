#!/usr/bin/env python3
"""docs/compression.md on Hugging Face transformers: generates from a cache of semantic cores, for tests.

    tools/hf_oracle.py --model models/demo < requests      {"prompt", "max_tokens", "ratio"} a line; "ratio" null: exact
    ->                                                     {"token_ids", "physical_entries", "exact_entries"}

The model is transformers' own, in float32 with eager attention. Cores are made as tools/gsc_oracle.py says, from
the file of thresholds beside the model, and take the place of their tokens in the cache; their bias ln n is an
additive float mask, one for each layer. Prompts are read in runs in which no query sees more cores than another, as
the daemon does. Written from the specification, not from the C code. Greedy; the default recipe but for the ratio.
Needs torch and transformers.
"""

import argparse
import json
import math
import pathlib
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import gsc_oracle as gsc  # noqa: E402

WINDOW, EPOCH, SINKS = 256, 512, 16
# A layer may keep so many times its share in the long run; a first credit; the part of it for a chunk.
OUTLIERS_SHARE, OUTLIERS_CREDIT, OUTLIERS_SPREAD = 1.5, 256, 8


class Calibration:
    def __init__(self, folder):
        c = json.loads((pathlib.Path(folder) / "semanticache-calibration.json").read_text())
        self.ratios, self.n_layers = c["ratios"], c["n_layers"]
        self.tau = c["tau"]["l2_pre"]
        n = c["n_kv_heads"]
        self.alone = c["alone"]
        size = len(c["mean_key"]) // self.n_layers
        self.mean_key = [c["mean_key"][i * size:(i + 1) * size] for i in range(self.n_layers)]
        self.key_var = [c["key_var"][i * n:(i + 1) * n] for i in range(self.n_layers)]
        self.weights = c.get("layer_weights", [1.0] * self.n_layers)
        self.exact_layers = set(c.get("exact_layers", [0, 1] if self.n_layers >= 16 else []))

    def share(self, layer, ratio):
        """Of the layer: the ratio is the mean over compressed layers, which keep in proportion to their weights, at most all."""
        weights = {i: w for i, w in enumerate(self.weights) if i not in self.exact_layers}
        entries, full = ratio * len(weights), True
        while full and weights:
            unit = entries / sum(weights.values())
            full = [i for i, w in weights.items() if unit * w >= 1]
            if layer in full:
                return 1.0
            for i in full:
                weights.pop(i)
            entries -= len(full)
        return unit * self.weights[layer]

    def thresholds(self, layer, ratio):
        """Of pairs, and of the distance to the mean key."""
        ratio = self.share(layer, ratio)
        return self.interpolated(self.tau, layer, ratio), self.interpolated(self.alone, layer, ratio)

    def interpolated(self, table, layer, ratio):
        """In log(ratio), in fixed point."""
        n = len(self.ratios)
        tau = table[layer * n:(layer + 1) * n]
        if ratio >= self.ratios[0]:
            return round(tau[0] * gsc.DIST_ONE)
        i = max(j for j in range(n) if j == 0 or self.ratios[j] > ratio)
        if i + 1 == n:
            return round(tau[i] * gsc.DIST_ONE)
        part = (math.log(self.ratios[i]) - math.log(ratio)) / (math.log(self.ratios[i]) - math.log(self.ratios[i + 1]))
        return round((tau[i] + part * (tau[i + 1] - tau[i])) * gsc.DIST_ONE)


class Oracle:
    def __init__(self, folder):
        import torch
        import transformers
        self.torch, self.new_cache = torch, transformers.DynamicCache
        self.tok = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager").eval()
        config = self.model.config
        self.n_layers, self.n_heads = config.num_hidden_layers, config.num_key_value_heads
        self.head_dim = config.head_dim
        self.inv_freq = self.model.model.rotary_emb.inv_freq.double()
        eos = self.model.generation_config.eos_token_id
        self.eos = set(eos if isinstance(eos, list) else [eos])
        self.special = set(self.tok.all_special_ids)
        self.calibration = Calibration(folder)
        for layer in self.model.model.layers:
            layer.self_attn.register_forward_pre_hook(self.mask_of, with_kwargs=True)

    def mask_of(self, module, args, kwargs):
        """This layer's entries: cores with their bias, exact ones, and the run's own tokens, causal."""
        torch, layer = self.torch, module.layer_idx
        n, n_old = self.n_run, self.cache.layers[layer].keys.shape[2] if self.n_read else 0
        mask = torch.zeros(1, 1, n, n_old + n)
        mask[..., :len(self.bias[layer])] = torch.tensor(self.bias[layer])
        mask[..., n_old:] = torch.full((n, n), -math.inf).triu(1)
        return args, {**kwargs, "attention_mask": mask}

    def read(self, ids):
        """Appends a run to the cache; the logits behind it."""
        torch = self.torch
        self.n_run = len(ids)
        positions = torch.arange(self.n_read, self.n_read + len(ids))[None]
        with torch.no_grad():
            logits = self.model(torch.tensor([ids]), past_key_values=self.cache, position_ids=positions, logits_to_keep=1).logits
        self.n_read += len(ids)
        return logits[0, -1]

    def distances(self, keys, layer):
        """keys [n_heads, m, head_dim] as stored -> the integers of all heads together."""
        torch = self.torch
        half, m = self.head_dim // 2, keys.shape[1]
        angle = -torch.arange(m, dtype=torch.float64)[:, None] * self.inv_freq[None]
        cos, sin = torch.cos(angle), torch.sin(angle)
        a, b = keys[..., :half].double(), keys[..., half:].double()
        x = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        d = ((x[:, :, None] - x[:, None]) ** 2).sum(-1)
        d = d / torch.tensor(self.calibration.key_var[layer], dtype=torch.float64)[:, None, None]
        return (d * gsc.DIST_ONE).round().clamp(max=gsc.head_cap(self.n_heads)).long().sum(0).tolist()

    def outlyingness(self, keys, layer, start):
        """Squared distance of each token's key, turned back to position 0, to the mean key of its head, summed over heads."""
        torch = self.torch
        half, m = self.head_dim // 2, keys.shape[1]
        angle = -torch.arange(start, start + m, dtype=torch.float64)[:, None] * self.inv_freq[None]
        cos, sin = torch.cos(angle), torch.sin(angle)
        a, b = keys[..., :half].double(), keys[..., half:].double()
        mean = torch.tensor(self.calibration.mean_key[layer], dtype=torch.float64).view(self.n_heads, 1, self.head_dim)
        d = ((torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1) - mean) ** 2).sum(-1)
        d = d / torch.tensor(self.calibration.key_var[layer], dtype=torch.float64)[:, None]
        return (d * gsc.DIST_ONE).round().clamp(max=gsc.head_cap(self.n_heads)).long().sum(0).tolist()

    def compress(self, limit, ratio):
        """Puts cores in the place of the chunks that end at or before the limit."""
        torch = self.torch
        chunks = [(s, e) for s, e in zip([0] + self.ends, self.ends) if self.n_merged < e <= limit]
        for layer in range(self.n_layers):
            if layer in self.calibration.exact_layers or not chunks:
                continue
            cached, n_cores = self.cache.layers[layer], len(self.bias[layer])
            keys, values = [cached.keys[:, :, :n_cores]], [cached.values[:, :, :n_cores]]
            tau, alone = self.calibration.thresholds(layer, ratio)
            share, saved = OUTLIERS_SHARE * self.calibration.share(layer, ratio), self.saved[layer]
            for start, end in chunks:
                at, m = n_cores + start - self.n_merged, end - start
                k, v = cached.keys[0, :, at:at + m], cached.values[0, :, at:at + m]
                special = {start + i for i, t in enumerate(self.ids[start:end]) if t in self.special}
                forced = set(gsc.forced_tokens(start, m, SINKS, special))
                far = [(-d, i) for i, d in enumerate(self.outlyingness(k, layer, start)) if d > alone and i not in forced]
                most = min(m, max(0, math.floor(m * share + saved / OUTLIERS_SPREAD)))
                forced |= {i for _, i in sorted(far)[:most]}
                labels, _ = gsc.cluster(self.distances(k, layer), tau, forced, "dense")
                self.saved[layer] += m * share - len(gsc.members_of(labels))
                for members in gsc.members_of(labels):
                    keys.append(k[:, members].mean(1)[None, :, None])
                    values.append(v[:, members].mean(1)[None, :, None])
                    self.bias[layer].append(math.log(len(members)))
            rest = n_cores + chunks[-1][1] - self.n_merged
            cached.keys = torch.cat(keys + [cached.keys[:, :, rest:]], dim=2)
            cached.values = torch.cat(values + [cached.values[:, :, rest:]], dim=2)
        if chunks:
            self.n_merged = chunks[-1][1]

    def generate(self, prompt, max_tokens, ratio):
        """Greedy; ratio None: the exact cache."""
        self.ids = ids = self.tok(prompt).input_ids
        texts = [self.tok.decode([t]) for t in ids]
        turns = [t in self.special for t in ids]
        classes = [gsc.class_at(texts, turns, i) for i in range(len(ids))]
        self.ends = gsc.chunk(classes, turns, len(ids), len(ids))
        self.cache, self.bias = self.new_cache(), [[] for _ in range(self.n_layers)]
        self.n_read = self.n_merged = 0
        self.saved = [OUTLIERS_CREDIT] * self.n_layers
        logits, out = None, []

        def limit(t):
            return gsc.compressed_limit(t, WINDOW, EPOCH) if ratio is not None else 0
        while self.n_read < len(ids):
            self.compress(limit(self.n_read), ratio)
            end = self.n_read + 1
            while end < min(len(ids), self.n_read + EPOCH) and limit(end) == limit(self.n_read):
                end += 1
            logits = self.read(ids[self.n_read:end])
        while len(out) < max_tokens:
            out.append(int(logits.argmax()))
            if out[-1] in self.eos or len(out) == max_tokens:
                break
            self.compress(min(limit(self.n_read), len(ids)), ratio)  # generated tokens are never so old here
            logits = self.read([out[-1]])
        return out

    def physical_entries(self):
        return sum(layer.keys.shape[2] for layer in self.cache.layers)


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", required=True)
    args = ap.parse_args()
    oracle = Oracle(args.model)
    for line in sys.stdin:
        request = json.loads(line)
        ids = oracle.generate(request["prompt"], request["max_tokens"], request["ratio"])
        print(json.dumps({"token_ids": ids, "physical_entries": oracle.physical_entries(),
                          "exact_entries": oracle.n_layers * oracle.n_read}), flush=True)


if __name__ == "__main__":
    main()
