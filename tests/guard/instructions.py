#!/usr/bin/env python3
"""Counts the instructions of the engine's steps on a micro model and holds them against a stored baseline.

    instructions.py --bench BENCH_ENGINE --compiler TEXT --isa avx2            compares; exits 1 when an operation grew
    instructions.py --bench BENCH_ENGINE --compiler TEXT --isa avx2 --update   writes the baseline

Instructions do not depend on what else the machine does. valgrind's callgrind counts them, for each operation of the
backend with all that it calls and for the whole step. callgrind does not know AVX-512: only plain and avx2 are guarded.
Another compiler makes other code, so there the test skips (77) and says so. bench-engine runs on one thread.
"""

import argparse
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

BASELINE = pathlib.Path(__file__).with_name("instructions.json")
MARGIN = 0.05
STEP = "sc_rank_execute"
# Smaller ones are watched as part of the whole.
OPERATIONS = [STEP, "sc_cpu_matmul", "sc_cpu_attention", "sc_cpu_qkv", "sc_cpu_norm", "sc_cpu_swiglu",
              "sc_cpu_distances", "sc_cpu_cluster", "sc_cpu_merge"]
ARGS = ["--shape", "micro", "--kv", "compressed", "--prefill", "800", "--decode-depth", "1024", "--seqs", "3",
        "--decode-steps", "4", "--repeats", "1", "--threads", "1", "--no-limits", "--fixed-thresholds"]


def skip(text):
    print(f"skipped: {text}")
    sys.exit(77)


def count(bench, isa):
    """{operation: instructions}, what it calls included."""
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder, "callgrind.out")
        command = ["valgrind", "--tool=callgrind", f"--toggle-collect={STEP}", f"--callgrind-out-file={out}", bench,
                   "--isa", isa, *ARGS]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            if "instruction set" in done.stderr:
                skip(f"this machine does not run {isa}")
            sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-2000:]}")
        listed = subprocess.run(["callgrind_annotate", "--inclusive=yes", "--threshold=100", out], capture_output=True,
                                text=True, check=True).stdout
    counts = {}
    for line in listed.splitlines():
        found = re.match(r"\s*([\d,]+)(?: \([^)]*\))?\s+\S*:(\w+)(?:'\d+)?(?: \[.*)?$", line)
        if found and found[2] in OPERATIONS:
            counts[found[2]] = max(counts.get(found[2], 0), int(found[1].replace(",", "")))
    return counts


def compare(counts, baseline):
    """Prints a table; False when an operation grew by more than the margin or is missing."""
    fine = True
    print(f"{'operation':18} {'baseline':>14} {'now':>14} {'change':>8}")
    for name in OPERATIONS:
        old, new = baseline.get(name), counts.get(name)
        if old is None or new is None:
            print(f"{name:18} {old or 'missing':>14} {new or 'missing':>14}")
            fine = False
            continue
        change = new / old - 1
        word = ""
        if change > MARGIN:
            fine, word = False, f"more than {MARGIN:.0%}"
        elif change < -MARGIN:
            word = "faster: update the baseline"
        print(f"{name:18} {old:14,} {new:14,} {change:+8.1%} {word}")
    return fine


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bench", required=True)
    parser.add_argument("--compiler", required=True, help="its name, version and flags; must be the baseline's")
    parser.add_argument("--isa", choices=["plain", "avx2"], required=True)
    parser.add_argument("--update", action="store_true")
    args = parser.parse_args()
    stored = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    if not shutil.which("valgrind") or not shutil.which("callgrind_annotate"):
        skip("valgrind is not installed")
    if not args.update and stored.get("compiler") != args.compiler:
        skip(f"the baseline is of {stored.get('compiler')}, this build of {args.compiler}")
    counts = count(args.bench, args.isa)
    if args.update:
        if stored.get("compiler") != args.compiler:
            stored = {"compiler": args.compiler}
        stored[args.isa] = counts
        BASELINE.write_text(json.dumps(stored, indent=1, sort_keys=True) + "\n")
        compare(counts, counts)
        return 0
    if not compare(counts, stored.get(args.isa, {})):
        print("an operation takes more instructions than its baseline. A loss that is wanted: "
              "cmake --build build/cpu --target guard-update, and say why in the commit.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
