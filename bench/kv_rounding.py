#!/usr/bin/env python3
"""bench/kv_rounding.py - what eight bits a number do to a cache: int8 with a scale a row beside fp8.

    python3 -m venv v && v/bin/pip install torch transformers
    v/bin/python bench/kv_rounding.py MODEL_DIR TEXT... [--tokens 2048] [--pieces 4] [--json FILE]

Runs a model in transformers (f32) over pieces of texts with a cache that rounds every key and value as it is stored, and
compares with the cache left alone: the mean KL divergence of the next token, the change of the texts' mean loss, and the
rounding's root mean square error as a share of the rows' own. "row": one f32 scale an entry and KV head, as int8 pages
have; without it fp8 keeps the number's own size, as servers with a scale of 1 do.
"""

import argparse
import json
import math
import pathlib


def forms(torch):
    def row(x, most):
        return x.abs().amax(-1, keepdim=True).clamp_min(1e-30) / most

    def int8_row(x):
        s = row(x, 127.0)
        return torch.round(x / s).clamp(-127, 127) * s

    def fp8(dtype, most):
        return lambda x: x.clamp(-most, most).to(dtype).to(x.dtype)

    def fp8_row(dtype, most):
        def rounded(x):
            s = row(x, most)
            return (x / s).to(dtype).to(x.dtype) * s
        return rounded

    e4, e5 = torch.float8_e4m3fn, torch.float8_e5m2
    return {
        "bf16": lambda x: x.to(torch.bfloat16).to(x.dtype),
        "int8, row": int8_row,
        "e4m3, row": fp8_row(e4, 448.0),
        "e4m3": fp8(e4, 448.0),
        "e5m2": fp8(e5, 57344.0),
    }


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("texts", nargs="+")
    ap.add_argument("--tokens", type=int, default=2048, help="of a piece")
    ap.add_argument("--pieces", type=int, default=4, help="of each text")
    ap.add_argument("--json")
    args = ap.parse_args()

    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    tok = transformers.AutoTokenizer.from_pretrained(args.model)
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()

    class Rounding(transformers.DynamicCache):
        """Rounds what it stores; the attention reads what was stored."""

        def __init__(self, form):
            super().__init__()
            self.form, self.error, self.norm = form, 0.0, 0.0

        def update(self, keys, values, layer, *rest, **more):
            new = [self.form(x) for x in (keys, values)]
            for old, x in zip((keys, values), new):
                self.error += float(((x - old) / old.norm(dim=-1, keepdim=True).clamp_min(1e-30)).pow(2).sum())
                self.norm += math.prod(old.shape[:-1])
            return super().update(*new, layer, *rest, **more)

    pieces = []
    for path in args.texts:
        ids = tok(pathlib.Path(path).read_text(errors="replace"))["input_ids"]
        pieces += [ids[i * args.tokens:(i + 1) * args.tokens] for i in range(args.pieces)
                   if len(ids) >= (i + 1) * args.tokens]
    if not pieces:
        raise SystemExit(f"no text has {args.tokens} tokens")
    rows = {}
    with torch.no_grad():
        for ids in pieces:
            x = torch.tensor([ids])
            exact = model(x, past_key_values=Rounding(lambda t: t)).logits[0].double().log_softmax(-1)
            loss = -exact[:-1].gather(1, x[0, 1:, None]).mean()
            for name, form in forms(torch).items():
                cache = Rounding(form)
                got = model(x, past_key_values=cache).logits[0].double().log_softmax(-1)
                r = rows.setdefault(name, {"kl": [], "loss": [], "error": 0.0, "norm": 0.0})
                r["kl"].append(float((exact.exp() * (exact - got)).sum(-1).mean()))
                r["loss"].append(float(-got[:-1].gather(1, x[0, 1:, None]).mean() - loss))
                r["error"] += cache.error
                r["norm"] += cache.norm
    mean = lambda v: sum(v) / len(v)
    out = {name: {"kl": mean(r["kl"]), "loss": mean(r["loss"]), "error": math.sqrt(r["error"] / r["norm"])}
           for name, r in rows.items()}
    print(f"{len(pieces)} pieces of {args.tokens} tokens, {args.model}")
    print("|cache|KL of the next token|change of the loss|error of a row|\n|-|-|-|-|")
    for name, r in out.items():
        print(f"|{name}|{r['kl']:.2e}|{r['loss']:+.2e}|{100 * r['error']:.2f} %|")
    if args.json:
        pathlib.Path(args.json).write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
