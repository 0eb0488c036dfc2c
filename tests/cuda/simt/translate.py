#!/usr/bin/env python3
"""A kernel file as C++ for tests/cuda/simt: translate.py cuda/kernels_x.cu x.cc

What C++ has no words for is replaced: launches become calls, shared variables references into the
block's shared memory. Everything else stays as it is, on its own line. The file's code goes into a
namespace of its own, because names that nvcc keeps apart would meet in the linker.
"""
import pathlib
import re
import sys

OPEN, CLOSE = "([{", ")]}"


class Refused(Exception):
    """Something that this script does not know, and where."""


def masked(source):
    """The source with comments and strings blanked, of the same length."""
    def blank(m):
        return re.sub(r"[^\n]", " ", m.group(0))
    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"', blank, source, flags=re.S)


def split(text, angles=False):
    """At the commas that are in no bracket."""
    parts, depth, at = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in OPEN) - (c in CLOSE)
        if angles:
            depth += (c == "<") - (c == ">")
        if c == "," and depth == 0:
            parts.append(text[at:i])
            at = i + 1
    return parts + [text[at:]]


def closing(code, at):
    """Of the bracket at `at`."""
    depth = 0
    for i in range(at, len(code)):
        depth += (code[i] in OPEN) - (code[i] in CLOSE)
        if depth == 0:
            return i
    raise Refused("a bracket that is not closed")


def kernel_before(code, at):
    """Where the name that ends before `at` begins, with its template arguments."""
    i = at
    while code[i - 1].isspace():
        i -= 1
    if code[i - 1] == ">":
        depth = 0
        while True:
            i -= 1
            depth += (code[i] == ">") - (code[i] == "<")
            if depth == 0:
                break
    while re.match(r"\w", code[i - 1]):
        i -= 1
    return i


def keep_lines(new, old):
    return new + "\n" * (old.count("\n") - new.count("\n"))


def launches(source):
    while True:
        code = masked(source)
        at = code.find("<<<")
        if at < 0:
            return source
        begin, end = kernel_before(code, at), code.index(">>>", at)
        config = split(source[at + 3:end])
        opening = end + 3
        if len(config) != 4 or code[opening] != "(":
            raise Refused(f"a launch: {source[begin:opening]}")
        last = closing(code, opening)
        kernel = source[begin:at].strip()
        grid, block, shared, stream = config
        # Only kernels with dynamic shared memory have been allowed more of it.
        pointer = "NULL" if shared.strip() == "0" else f"(const void *){kernel}"
        new = (f"(::simt::at(__FILE__, __LINE__), ::simt::start({pointer}, {grid}, {block}, {shared}, {stream}, "
               f"[](const auto &...arg) {{ {kernel}(arg...); }}, {source[opening + 1:last]}))")
        source = source[:begin] + keep_lines(new, source[begin:last + 1]) + source[last + 1:]


def shared(source):
    pattern = re.compile(r"\b(extern\s+)?__shared__\s+(?:__align__\((\w+)\)\s*)?([^;]*);")
    while True:
        m = pattern.search(masked(source))
        if not m:
            return source
        new, base = "", None
        for part in split(m.group(3), angles=True):
            d = re.match(r"(.*\S)?\s*\b(\w+)\s*((?:\[[^\]]*\]\s*)*)$", part.strip(), re.S)
            base = base or (d and d.group(1))
            if not d or not base:
                raise Refused(f"shared memory: {m.group(0)}")
            name, array = d.group(2), d.group(3).strip()
            align = m.group(2) or f"alignof({base})"
            variable = f"(&{name}){array}" if array else f"&{name}"
            if m.group(1):
                new += f"{base} *const {name} = ({base} *)::simt::shared_dynamic({align}); "
            else:
                new += (f"static ::simt::variable {name}_place; {base} {variable} = *({base} (*){array})"
                        f"::simt::shared_variable({name}_place, sizeof({base}{array}), {align}); ")
        source = source[:m.start()] + keep_lines(new.rstrip(), m.group(0)) + source[m.end():]


def translate(source, path):
    includes = [m.end() for m in re.finditer(r"^#include .*\n", source, re.M)]
    head = source[:includes[-1]]
    body = launches(shared(source[includes[-1]:]))
    for word in ("__shared__", "<<<", "asm"):
        if re.search(rf"{word}\b" if word == "asm" else re.escape(word), masked(body)):
            raise Refused(f"{word} is left; assembly belongs into cuda/ptx.cuh")
    space = "sc_simt_" + re.sub(r"\W", "_", path.stem)
    return (f'#include <cuda_runtime.h>\n#line 1 "{path}"\n{head}'
            f"#define sc_overlap_launch(...) (::simt::at(__FILE__, __LINE__), sc_overlap_launch(__VA_ARGS__))\n"
            f'namespace {space} {{\n#line {head.count(chr(10)) + 1} "{path}"\n{body}\n}}\n')


def main():
    path = pathlib.Path(sys.argv[1])
    try:
        text = translate(path.read_text(encoding="utf-8"), path)
    except Refused as e:
        sys.exit(f"{path}: {e}")
    pathlib.Path(sys.argv[2]).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
