#!/usr/bin/env python3
"""Registers, stack and local memory of every kernel, against a budget.

    registers.py PLUGIN BUDGET.json            exits 1 and names the kernels that went over
    registers.py PLUGIN BUDGET.json --update   writes the budget from what is there

A kernel that starts to spill, or that takes registers from its neighbours, is seen here without a GPU.
Without cuobjdump the check is skipped with exit code 77.
"""
import json
import pathlib
import re
import shutil
import subprocess
import sys


def usage(plugin):
    tool = shutil.which("cuobjdump") or "/usr/local/cuda/bin/cuobjdump"
    if not pathlib.Path(tool).exists():
        print("skipped: cuobjdump is not here")
        sys.exit(77)
    text = subprocess.run([tool, "-res-usage", plugin], capture_output=True, text=True, check=True).stdout
    text += "\n"
    found, arch, name = {}, None, None
    for line in text.splitlines():
        m = re.search(r"arch = (sm_\w+)", line)
        if m:
            arch = m.group(1)
        m = re.search(r"Function (\S+?):", line)
        if m:
            name = m.group(1)
        m = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line)
        if m and name:
            found[f"{arch} {name}"] = [int(m.group(1)), int(m.group(2)), int(m.group(4))]
            name = None
    return found


def plain(names):
    """Names as they were written, without what a compiler adds to files' own functions."""
    r = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True)
    lines = r.stdout.splitlines() if r.returncode == 0 else list(names)
    return [re.sub(r"\(anonymous namespace\)::|\(.*$", "", x) for x in lines]


def main():
    plugin, budget = sys.argv[1], pathlib.Path(sys.argv[2])
    found = usage(plugin)
    keys = list(found)
    names = plain([k.split(" ", 1)[1] for k in keys])
    used = {}
    for key, name in zip(keys, names):
        used[f"{key.split(' ', 1)[0]} {name}"] = found[key]
    if not used:
        print("no kernels found")
        return 1
    if "--update" in sys.argv:
        lines = [f' {json.dumps(k)}: {json.dumps(used[k])}' for k in sorted(used)]
        budget.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        print(f"{len(used)} kernels")
        return 0
    allowed = json.loads(budget.read_text(encoding="utf-8"))
    archs = {k.split(" ")[0] for k in used}
    bad = []
    for key, (registers, stack, local) in sorted(used.items()):
        limit = allowed.get(key)
        if limit is None:
            bad.append(f"{key}: not in the budget ({registers} registers)")
        elif registers > limit[0] or stack > limit[1] or local > limit[2]:
            bad.append(f"{key}: {registers} registers, {stack} bytes of stack, {local} of local memory; "
                       f"budget {limit}")
    bad += [f"{k}: in the budget, but not built" for k in sorted(allowed)
            if k not in used and k.split(" ")[0] in archs]
    for line in bad:
        print(line)
    print(f"{len(used)} kernels, {len(bad)} outside the budget")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
