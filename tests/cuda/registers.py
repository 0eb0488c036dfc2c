#!/usr/bin/env python3
"""Registers, stack and spills of every kernel, from the compiler's report, against a budget.

    registers.py BUILD BUDGET.json            exits 1 and names the kernels that went over
    registers.py BUILD BUDGET.json --update   writes the budget from what is there

A kernel that starts to spill, or that takes registers from its neighbours, is seen here without a GPU. Only the
targets that were built are compared.
"""
import json
import pathlib
import re
import subprocess
import sys


def usage(build):
    """{"sm_90a mangled": [registers, stack bytes, spilled bytes]}"""
    found, key, frame = {}, None, [0, 0]
    for report in sorted(pathlib.Path(build).rglob("*.ptxas")):
        for line in report.read_text(encoding="utf-8", errors="replace").splitlines():
            m = re.search(r"Compiling entry function '(\S+)' for '(sm_\w+)'", line)
            if m:
                key, frame = f"{m.group(2)} {m.group(1)}", [0, 0]
            m = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line)
            if m:
                frame = [int(m.group(1)), int(m.group(2)) + int(m.group(3))]
            m = re.search(r"Used (\d+) registers", line)
            if m and key:
                found[key] = [int(m.group(1))] + frame
                key = None
    return found


def plain(names):
    """Names as they were written, without what a compiler adds to files' own functions."""
    r = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True)
    lines = r.stdout.splitlines() if r.returncode == 0 else list(names)
    return [re.sub(r"\(anonymous namespace\)::|\(.*$", "", x) for x in lines]


def main():
    budget = pathlib.Path(sys.argv[2])
    found = usage(sys.argv[1])
    keys = list(found)
    names = plain([k.split(" ", 1)[1] for k in keys])
    used = {}
    for key, name in zip(keys, names):
        used[f"{key.split(' ', 1)[0]} {name}"] = found[key]
    if not used:
        print("no compiler reports (*.ptxas) found")
        return 1
    if "--update" in sys.argv:
        lines = [f' {json.dumps(k)}: {json.dumps(used[k])}' for k in sorted(used)]
        budget.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        print(f"{len(used)} kernels")
        return 0
    allowed = json.loads(budget.read_text(encoding="utf-8"))
    archs = {k.split(" ")[0] for k in used}
    bad = []
    for key, (registers, stack, spilled) in sorted(used.items()):
        limit = allowed.get(key)
        if limit is None:
            bad.append(f"{key}: not in the budget ({registers} registers)")
        elif registers > limit[0] or stack > limit[1] or spilled > limit[2]:
            bad.append(f"{key}: {registers} registers, {stack} bytes of stack, {spilled} spilled; "
                       f"budget {limit}")
    bad += [f"{k}: in the budget, but not built" for k in sorted(allowed)
            if k not in used and k.split(" ")[0] in archs]
    for line in bad:
        print(line)
    print(f"{len(used)} kernels, {len(bad)} outside the budget")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
