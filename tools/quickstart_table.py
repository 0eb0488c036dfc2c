#!/usr/bin/env python3
"""Asks questions about a document in several KV modes with semcache, and prints what came back.

    quickstart_table.py --semcache BIN --server ADDRESS --document FILE (--questions FILE | --question TEXT)
                        [--prompt-format FILE] [--modes compressed,exact]

--questions is a JSON list of {"q": question, "a": right answer}; answers are judged against it. Without
right answers nothing is judged. Exits 0 when every call worked, COMPRESSED kept fewer entries than an exact
cache has, and, where there are right answers, at least RIGHT_SHARE of them were given in every mode.
"""

import argparse
import json
import statistics
import subprocess
import sys

RIGHT_SHARE = 0.7


def ask(options, mode, question):
    command = [options.semcache, "ask", "--server", options.server, "--json", "--kv", mode,
               "--document", options.document]
    if options.prompt_format:
        command += ["--prompt-format", options.prompt_format]
    if options.max_tokens:
        command += ["--max-tokens", str(options.max_tokens)]
    done = subprocess.run([*command, "--", question], stdout=subprocess.PIPE)
    if done.returncode != 0:
        sys.exit(f"quickstart: semcache ask ended with status {done.returncode}")
    return json.loads(done.stdout)


def plain(answer):
    return answer.strip().rstrip(".").lower()


def shown(text):
    """One line without what could steer a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))


def size(count):
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024


def milliseconds(us):
    return f"{us / 1e3:.1f} ms"


def is_warm(reply):
    """Most of the prompt was read for an earlier question."""
    return reply["usage"]["cached_tokens"] > reply["usage"]["prompt_tokens"] / 2


def row(mode, reply, right):
    receipt, timings = reply["receipt"], reply["timings"]
    verdict = "" if right is None else ("right" if plain(reply["text"]) == plain(right) else "WRONG")
    return {
        "mode": mode,
        "answer": shown(reply["text"])[:32],
        "judged": verdict,
        "entries": f"{receipt['physical_entries']}/{receipt['exact_entries']}",
        "ratio": f"{receipt['ratio']:.3f}",
        "KV memory": size(reply["kv_bytes"]) if "kv_bytes" in reply else "?",
        "cached": reply["usage"]["cached_tokens"],
        "TTFT": milliseconds(timings["ttft_us"]),
        "tokens/s": f"{reply['decode_tokens_per_s']:.0f}" if reply["decode_tokens_per_s"] else "-",
    }


def print_table(rows):
    names = list(rows[0])
    widths = {n: max(len(n), *(len(str(r[n])) for r in rows)) for n in names}
    print("  ".join(n.ljust(widths[n]) for n in names).rstrip())
    print("  ".join("-" * widths[n] for n in names))
    for r in rows:
        print("  ".join(str(r[n]).ljust(widths[n]) for n in names).rstrip())


def speed(replies):
    """Short answers make single rates noisy: all of a mode together."""
    ttfts = []
    for name, warm in (("cold", False), ("warm", True)):
        times = [r["timings"]["ttft_us"] for r in replies if is_warm(r) == warm]
        if times:
            ttfts.append(f"{name} {milliseconds(statistics.median(times))}")
    # The first token of an answer belongs to the prefill.
    tokens = sum(max(r["usage"]["completion_tokens"] - 1, 0) for r in replies)
    seconds = sum(r["timings"]["decode_us"] for r in replies) / 1e6
    ratio = statistics.mean(r["receipt"]["ratio"] for r in replies)
    rate = f", {tokens / seconds:.0f} tokens/s over {tokens} tokens" if seconds > 0 and tokens else ""
    return f"{ratio:.3f} of the entries; median TTFT {', '.join(ttfts)}{rate}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--semcache", required=True)
    parser.add_argument("--server", required=True)
    parser.add_argument("--document", required=True)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--questions")
    what.add_argument("--question")
    parser.add_argument("--prompt-format")
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--modes", default="compressed,exact")
    options = parser.parse_args()
    if options.questions:
        with open(options.questions, encoding="utf-8") as file:
            questions = [(item["q"], item["a"]) for item in json.load(file)]
    else:
        questions = [(options.question, None)]

    modes = options.modes.split(",")
    rows, problems, replies = [], [], {mode: [] for mode in modes}
    for number, (question, right) in enumerate(questions, 1):
        print(f"  {number}. {question}", flush=True)
        for mode in modes:
            reply = ask(options, mode, question)
            rows.append(row(mode, reply, right))
            replies[mode].append(reply)
            receipt = reply["receipt"]
            if receipt["mode"] != mode:
                problems.append(f"question {number}: asked for {mode}, got {receipt['mode']}")
            if mode == "compressed" and receipt["physical_entries"] >= receipt["exact_entries"]:
                problems.append(f"question {number}: compression kept every entry")
    print()
    print_table(rows)
    print()
    for mode in modes:
        judged = [r["judged"] for r in rows if r["mode"] == mode and r["judged"]]
        n_right = judged.count("right")
        print(f"{mode}: {f'{n_right} of {len(judged)} answers right; ' if judged else ''}{speed(replies[mode])}")
        if n_right < RIGHT_SHARE * len(judged):
            problems.append(f"{mode}: {n_right} of {len(judged)} right, {RIGHT_SHARE:.0%} wanted")
    for problem in problems:
        print(f"quickstart: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
