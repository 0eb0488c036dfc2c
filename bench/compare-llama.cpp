#!/usr/bin/env python3
"""bench/compare-llama.cpp - SemantiCache and llama.cpp on the same shape, one after the other, by turns.

    bench/compare-llama.cpp --llama DIR [--ik] [--shape 0.1B] [--threads 1] [--only prefill,decode,batch] [--quick]

DIR is a build of llama.cpp with bin/llama-bench and bin/llama-batched-bench. Both programs run models of the same shape
with random weights: ours makes them in memory, for llama.cpp a GGUF is written once (bench/random_gguf.py, with numpy
and gguf from PyPI in an environment of its own). Each round runs every test once in llama.cpp and once here; medians
over the rounds are compared. llama.cpp gets its better setting of flash attention, found in the first round, its weights
in memory without mmap, and huge pages for what malloc gives it. Caches are f16 there and bf16 here unless --cache and
--kv-dtype say otherwise. With --ik the build is one of ik_llama.cpp, whose weights are repacked at load; no batches.
With --json FILE results are added to those that are in the file, so that a long comparison may be cut into parts.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import venv

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHAPES = {  # layers, hidden, heads, KV heads, head_dim, ffn, vocabulary, tied: as bench/random_model.c
    "tiny": (4, 256, 8, 4, 32, 512, 4096, True),
    "0.1B": (12, 768, 12, 4, 64, 2048, 4096, True),
    "1B": (16, 2048, 32, 8, 64, 8192, 32000, True),
    "Llama-3.1-8B": (32, 4096, 32, 8, 128, 14336, 128256, False),
}
PREFILL = [512, 4096, 16384]
DEPTHS = [0, 2048, 8192, 16384]
BATCH_DEPTHS = [512, 2048]
BATCH_SEQS = 8
GEN = 16  # tokens of a decode test


def fail(text):
    sys.exit(f"compare-llama.cpp: {text}")


def numbers(text):
    try:
        return [int(n) for n in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text}: numbers with commas between") from None


def words(allowed):
    def read(text):
        found = text.split(",")
        if not set(found) <= set(allowed):
            raise argparse.ArgumentTypeError(f"{text}: of {','.join(allowed)}")
        return found

    return read


def read_args():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--llama", required=True, type=pathlib.Path, help="build directory of llama.cpp")
    p.add_argument("--bench", type=pathlib.Path, default=ROOT / "build/cpu/bin/bench-engine")
    p.add_argument("--shape", default="0.1B", help=f"{', '.join(SHAPES)} or a Hugging Face model directory")
    p.add_argument("--ik", action="store_true", help="the build is one of ik_llama.cpp")
    p.add_argument("--cache", choices=["f16", "q8_0"], default="f16", help="cache of llama.cpp")
    p.add_argument("--kv-dtype", choices=["bf16", "int8"], default="bf16", help="cache of ours")
    p.add_argument("--type", choices=["bf16", "q8_0"], default="bf16", help="weights of llama.cpp")
    p.add_argument("--weights", default="bf16", help="ours, as bench-engine --weights has it")
    p.add_argument("--isa", help="ours, as bench-engine --isa has it")
    p.add_argument("--ratio", type=float, default=0.25, help="cores per token of a compressed chunk")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--only", type=words(["prefill", "decode", "batch"]), default=["prefill", "decode", "batch"])
    p.add_argument("--prefill", type=numbers, default=PREFILL, metavar="N,N")
    p.add_argument("--depths", type=numbers, default=DEPTHS, metavar="N,N")
    p.add_argument("--batch-depths", type=numbers, default=BATCH_DEPTHS, metavar="N,N")
    p.add_argument("--seqs", type=int, default=BATCH_SEQS, help="sequences of a batch")
    p.add_argument("--quick", action="store_true", help="one round of the short tests")
    p.add_argument("--fa", type=words(["off", "on"]), default=["off", "on"], help="flash attention to try")
    p.add_argument("--prefix", default="", help="put before every measured command, e.g. 'taskset -c 0'")
    p.add_argument("--work", type=pathlib.Path, default=ROOT / "build/compare", help="GGUF files and Python packages")
    p.add_argument("--json", type=pathlib.Path)
    p.add_argument("--markdown", type=pathlib.Path)
    args = p.parse_args()
    if args.quick:
        args.rounds = 1
        args.prefill, args.depths, args.batch_depths = PREFILL[:1], DEPTHS[:2], BATCH_DEPTHS[:1]
    return args


def read_shape(name):
    """(what to call it, its numbers)."""
    if name in SHAPES:
        return name, SHAPES[name]
    try:
        c = json.loads((pathlib.Path(name) / "config.json").read_text())
    except OSError as e:
        fail(f"--shape {name}: not one of {', '.join(SHAPES)}, and {e}")
    heads = c["num_attention_heads"]
    dims = (c["num_hidden_layers"], c["hidden_size"], heads, c.get("num_key_value_heads") or heads,
            c.get("head_dim") or c["hidden_size"] // heads, c["intermediate_size"], c["vocab_size"],
            bool(c.get("tie_word_embeddings", False)))
    return pathlib.Path(name).resolve().name, dims


def make_gguf(args, label, dims):
    path = args.work / f"{label}-{args.type}.gguf"
    if path.exists():
        return path
    args.work.mkdir(parents=True, exist_ok=True)
    python = args.work / "venv/bin/python"
    if subprocess.run([python, "-c", "import gguf"], capture_output=True, check=False).returncode != 0 \
            if python.exists() else True:
        print(f"installing numpy and gguf into {python.parent.parent}", file=sys.stderr)
        venv.create(python.parent.parent, with_pip=True)
        if subprocess.run([python, "-m", "pip", "install", "-q", "numpy", "gguf"], check=False).returncode != 0:
            fail(f"numpy and gguf could not be installed; install both into {python.parent.parent}, then try again")
    print(f"writing {path}", file=sys.stderr)
    command = [python, ROOT / "bench/random_gguf.py", path, "--type", args.type,
               "--shape", ",".join(str(n) for n in dims[:7])]
    subprocess.run(command + ([] if dims[7] else ["--untied"]), check=True)
    return path


def run(args, command, huge=True):
    """Standard output of a measured command."""
    env = dict(os.environ, **({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if huge else {}))
    command = shlex.split(args.prefix) + [str(c) for c in command]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, check=False)
    if done.returncode != 0:
        fail(f"{shlex.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
    return done.stdout


def llama_rate(args, gguf, test, fa):
    """Tokens a second of one run."""
    kind, tokens, seqs = test
    common = ["-m", gguf, "-t", args.threads, "-b", 2048, "-ub", 512, "-ctk", args.cache, "-ctv", args.cache]
    if args.ik:
        what = (["-p", tokens, "-n", 0] if kind == "prefill" else ["-p", 0, "-n", GEN] if tokens == 0 else
                ["-p", 0, "-n", 0, "-gp", f"{tokens},{GEN}"])
        out = run(args, [args.llama / "bin/llama-bench", *common, "-fa", int(fa == "on"), *what, "-r", 1, "-mmp", 0,
                         "-rtr", 1, "-thp", 1, "-o", "json"])
        return json.loads(out[out.index("["):])[-1]["avg_ts"]
    common += ["-fa", fa]
    if kind == "batch":
        context = seqs * (tokens + GEN)
        command = [args.llama / "bin/llama-batched-bench", *common, "-tb", args.threads, "-c", context, "-npp", tokens,
                   "-ntg", GEN, "-npl", seqs, "-lm", "none", "--output-format", "jsonl"]
        for huge in (True, False):  # with huge pages it ends in silence for q8_0 (seen with ggml 0.25.3)
            out = re.sub(r"-?\b(nan|inf)\b", "null", run(args, command, huge))  # the rate of no prefill
            rows = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
            if rows:
                break
        if len(rows) != 1:
            fail(f"llama-batched-bench gave {len(rows)} results instead of one")
        return rows[0]["speed_tg"]
    what = ["-p", tokens, "-n", 0] if kind == "prefill" else ["-p", 0, "-n", GEN, "-d", tokens]
    out = run(args, [args.llama / "bin/llama-bench", *common, *what, "-r", 1, "-lm", "none", "-o", "json"])
    return json.loads(out)[0]["avg_ts"]


def our_rates(args, test):
    """Tokens a second of one run, by its mean as in llama-bench, and the share of entries kept; both by cache."""
    kind, tokens, seqs = test
    what = (["--prefill", tokens, "--decode-depth", "none"] if kind == "prefill" else
            ["--prefill", "none", "--decode-depth", tokens, "--seqs", seqs])
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        run(args, [args.bench, "--shape", args.shape, *what, "--budget", "--threads", args.threads, "--repeats", 1,
                   "--decode-steps", GEN, "--weights", args.weights, "--kv-dtype", args.kv_dtype, "--ratio", args.ratio,
                   "--no-limits",
                   "--memory", 1 << 17, "--json", file.name, *(["--isa", args.isa] if args.isa else [])])
        rows = json.load(open(file.name, encoding="utf-8"))[0]["rows"]
    done = tokens if kind == "prefill" else seqs
    return {r["kv"]: done / r["mean_s"] for r in rows}, {r["kv"]: r["kept"] for r in rows}


def measure(args, gguf, tests):
    """By turns: every test in llama.cpp, then here, round after round."""
    results = [{"test": t[0], "tokens": t[1], "seqs": t[2], "llama": {}, "ours": {}, "kept": {}} for t in tests]
    for turn in range(args.rounds):
        for test, r in zip(tests, results):
            flash = args.fa if turn == 0 else [max(r["llama"], key=lambda fa: r["llama"][fa][0])]
            for fa in flash:
                r["llama"].setdefault(fa, []).append(llama_rate(args, gguf, test, fa))
            rates, r["kept"] = our_rates(args, test)
            for kv, rate in rates.items():
                r["ours"].setdefault(kv, []).append(rate)
            print(f"round {turn + 1}: {test[0]} {test[1]}, {test[2]} sequence(s): llama.cpp "
                  + ", ".join(f"{r['llama'][fa][-1]:.1f} (fa {fa})" for fa in flash)
                  + "; here " + ", ".join(f"{v:.1f} {k}" for k, v in rates.items()), file=sys.stderr)
    return results


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def llama_version(args):
    out = subprocess.run([args.llama / "bin/llama-bench", "--version"], capture_output=True, text=True, check=False)
    lines = [line for line in (out.stdout + out.stderr).splitlines() if "version" in line]
    return lines[0].strip() if lines else "unknown"


def merge(old, new):
    """New samples join those of the same test; other tests stay."""
    def key(r):
        return tuple(r.get(k) for k in ("shape", "type", "weights", "isa", "threads", "ratio", "cache", "kv_dtype", "ik",
                                        "test", "tokens", "seqs"))

    found = {key(r): r for r in old}
    for r in new:
        same = found.setdefault(key(r), r)
        if same is not r:
            for side in ("llama", "ours"):
                for setting, rates in r[side].items():
                    same[side].setdefault(setting, []).extend(rates)
            same["kept"] = r["kept"]
    return list(found.values())


def table(results):
    lines = ["|shape|weights|our kernels|threads|test|tokens|seqs|llama.cpp|exact|ratio|compressed|ratio|kept|",
             "|-|-|-|-|-|-|-|-|-|-|-|-|-|"]
    for r in sorted(results, key=lambda r: (r["shape"], r["type"], r["weights"], r["isa"], r["threads"],
                                            ["prefill", "decode", "batch"].index(r["test"]), r["seqs"], r["tokens"])):
        fa = max(r["llama"], key=lambda s: statistics.median(r["llama"][s]))
        llama = statistics.median(r["llama"][fa])
        exact, compressed = (statistics.median(r["ours"][kv]) for kv in ("exact", "compressed"))
        weights = r["type"] if r["type"] == r["weights"] else f"{r['type']} / {r['weights']}"
        if r.get("kv_dtype", "bf16") != "bf16":
            weights += f", cache {r['cache']} / {r['kv_dtype']}"
        lines.append(f"|{r['shape']}|{weights}|{r['isa']}|{r['threads']}|{r['test']}|{r['tokens']}|{r['seqs']}"
                     f"|{llama:.1f} (fa {fa})|{exact:.1f}|{exact / llama:.2f}|{compressed:.1f}"
                     f"|{compressed / llama:.2f}|{r['kept']['compressed']:.2f}|")
    return "\n".join(lines) + "\n"


def main():
    args = read_args()
    if args.ik:
        args.only = [what for what in args.only if what != "batch"]
    for program in (args.llama / "bin/llama-bench", args.llama / "bin/llama-batched-bench", args.bench):
        if not os.access(program, os.X_OK):
            fail(f"no program {program}")
    label, dims = read_shape(args.shape)
    gguf = make_gguf(args, label, dims)
    tests = []
    tests += [("prefill", n, 1) for n in args.prefill if "prefill" in args.only]
    tests += [("decode", n, 1) for n in args.depths if "decode" in args.only]
    tests += [("batch", n, args.seqs) for n in args.batch_depths if "batch" in args.only]
    results = measure(args, gguf, tests)
    for r in results:
        r.update(shape=label, type=args.type, weights=args.weights, isa=args.isa or "auto", threads=args.threads, ratio=args.ratio,
                 cache=args.cache, kv_dtype=args.kv_dtype, ik=args.ik, cpu=cpu_name(), llama_version=llama_version(args))
    if args.json:
        old = json.loads(args.json.read_text()) if args.json.exists() else []
        results = merge(old, results)
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    text = table(results)
    print(text, end="")
    if args.markdown:
        args.markdown.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
