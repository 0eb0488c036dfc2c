#!/usr/bin/env python3
"""Measures what docs/results/serving.md says, and writes it there: results, tables and plots.

    bench/serving_results.py --build build/cpu --out docs/results/serving
    bench/serving_results.py --only crowd              # one scenario of those that --list names
    bench/serving_results.py --only mixed --llama-server PATH --llama-model FILE.gguf
    bench/serving_results.py --only none               # tables and plots of the results that are there

Starts its daemons itself, on free loopback ports. Each scenario writes OUT/NAME.json, with the machine, the
date and the version it is from; OUT/NAME.svg and the parts of OUT.md between `<!-- NAME -->` and
`<!-- end -->` are made of those files. Needs python3-grpcio, python3-protobuf and protoc; plots need
matplotlib, which is installed into BUILD/plots-venv where it is missing. A quiet machine is up to you; all of it
takes about 25 minutes there. The GGUF file of the 0.1B shape: bench/random_gguf.py --type q8_0.
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import time
import venv

sys.dont_write_bytecode = True
SOURCE = pathlib.Path(__file__).resolve().parent.parent


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build" / "cpu")
    parser.add_argument("--out", type=pathlib.Path, default=SOURCE / "docs" / "results" / "serving")
    parser.add_argument("--models", type=pathlib.Path, help="where random models are, or are made (BUILD/bench-models)")
    parser.add_argument("--only", help="scenarios with commas; none: what was measured before")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--crowd-seconds", type=float, default=60)
    parser.add_argument("--llama-server", type=pathlib.Path, help="measure it beside ours")
    parser.add_argument("--llama-model", type=pathlib.Path, action="append", default=[],
                        help="the 0.1B shape as a GGUF file, for it; may be repeated")
    parser.add_argument("--llama-options", type=shlex.split, default=[], help="more options for it, in one word")
    args = parser.parse_args()
    if (args.llama_server is None) != (not args.llama_model):
        parser.error("--llama-server and --llama-model need each other")
    return args


def results(out):
    return {p.stem: json.loads(p.read_text()) for p in sorted(out.glob("*.json"))}


def write_tables(out, scenarios):
    """Replaces what stands between the marks; all else in the document is written by hand."""
    document = out.with_suffix(".md")
    text = document.read_text()
    for name, result in results(out).items():
        if name not in scenarios:
            continue
        mark = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not mark.search(text):
            print(f"{document}: no mark <!-- {name} -->", file=sys.stderr)
        made = result["made"]
        said = f"{made['date']}, {made['version']}, {made['cpu']}."
        table = f"\n{scenarios[name].table(result)}\n\n{said}\n\n"
        text = mark.sub(lambda m, table=table: m[1] + table + m[2], text)
    document.write_text(text)


def write_plots(build, out):
    """In a Python that has matplotlib: this one, or one made for it."""
    python = sys.executable
    if subprocess.run([python, "-c", "import matplotlib"], stderr=subprocess.DEVNULL).returncode != 0:
        folder = build / "plots-venv"
        python = folder / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", "matplotlib>=3.6,<4"])
        if done.returncode != 0:
            sys.exit("serving_results: no plots without matplotlib: apt-get install python3-matplotlib")
    subprocess.run([python, SOURCE / "bench" / "serving" / "plots.py", out], check=True)


def main():
    args = arguments()
    args.build = args.build.resolve()
    args.models = args.models or args.build / "bench-models"
    os.environ.setdefault("SEMANTICACHED", str(args.build / "bin" / "semanticached"))
    os.environ.setdefault("SC_E2E_PATIENCE_S", "300")
    sys.path[:0] = [str(SOURCE / "bench"), str(SOURCE / "tests" / "e2e")]
    from serving import SCENARIOS
    from serving.setup import Bench

    if args.list:
        print("\n".join(f"{name:12} {module.__doc__.splitlines()[0]}" for name, module in SCENARIOS.items()))
        return
    chosen = list(SCENARIOS) if args.only is None else [n for n in args.only.split(",") if n != "none"]
    for name in chosen:
        if name not in SCENARIOS:
            sys.exit(f"serving_results: no scenario {name}; there are {', '.join(SCENARIOS)}")
    args.out.mkdir(parents=True, exist_ok=True)
    for name in chosen:
        print(f"serving_results: {name}", flush=True)
        begin = time.monotonic()
        with Bench(args) as bench:
            result = {"made": bench.made(), **SCENARIOS[name].measure(bench)}
        print(f"serving_results: {name} took {time.monotonic() - begin:.0f} s", flush=True)
        lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in result.items()]
        (args.out / f"{name}.json").write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(SCENARIOS[name].table(result), flush=True)
    write_tables(args.out, SCENARIOS)
    write_plots(args.build, args.out)


if __name__ == "__main__":
    main()
