#!/usr/bin/env python3
"""Writes model/unicode_classes.c from a JSON table of character classes.

Usage: make_unicode_classes.py CLASSES.json > model/unicode_classes.c

CLASSES.json: {"\\p{L}": {"hf_ranges": [["0041", "005A"], ...], "only_hf": [...]}, ...}, hexadecimal, for
the classes named in ORDER. hf_ranges is the whole class in Unicode 16, as the regular expression
engine behind tokenizer files has it; only_hf are those of its ranges that a PCRE2 built with Unicode
14 does not know.
"""
import json
import sys

ORDER = ["L", "N", "M", "Lu", "Ll", "Lt", "Lm", "Lo", "P", "S"]


def ranges(name, pairs):
    if not pairs:
        return []
    lines = [f"static const struct sc_unicode_range {name}[] = {{"]
    row = "   "
    for first, last in pairs:
        item = f" {{0x{int(first, 16):x}, 0x{int(last, 16):x}}},"
        if len(row) + len(item) > 99:
            lines.append(row)
            row = "   "
        row += item
    return lines + [row, "};", ""]


def check(name, pairs):
    end = -1
    for first, last in pairs:
        first, last = int(first, 16), int(last, 16)
        if not end < first <= last <= 0x10FFFF:
            sys.exit(f"{name}: range {first:x}-{last:x} is out of order")
        end = last


def main():
    with open(sys.argv[1], encoding="utf-8") as f:
        classes = json.load(f)
    out = [
        "/* model/unicode_classes.c - character classes of Unicode 16.",
        " *",
        " * Made by tools/make_unicode_classes.py; do not edit.",
        " */",
        '#include "model/unicode.h"',
        "",
        "/* clang-format off */",
    ]
    rows = []
    for name in ORDER:
        entry = classes[f"\\p{{{name}}}"]
        check(name, entry["hf_ranges"])
        check(name, entry["only_hf"])
        out += ranges(f"all_{name}", entry["hf_ranges"])
        out += ranges(f"newer_{name}", entry["only_hf"])
        newer = f"newer_{name}, {len(entry['only_hf'])}" if entry["only_hf"] else "NULL, 0"
        rows.append(f'    [SC_UNICODE_{name.upper()}] = {{"{name}", all_{name}, '
                    f'{len(entry["hf_ranges"])}, {newer}}},')
    out += ["const struct sc_unicode_class sc_unicode_classes[SC_UNICODE_CLASS_COUNT] = {"]
    out += rows + ["};"]
    print("\n".join(out))


main()
