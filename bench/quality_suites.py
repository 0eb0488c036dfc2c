#!/usr/bin/env python3
"""Documents and questions of retrieval tests in the shape of RULER, made for the demo model.

    python3 bench/quality_suites.py --out suites.jsonl --tasks niah_single,two_hop --lengths 1024,8192 --documents 10

Writes JSON Lines, one document a line:
    {"id", "task", "trained", "length", "depth", "document", "questions": [{"q", "a": [...]}]}
The right answer is the items of "a" joined by " and ". "length" is in tokens of the demo model as this file
counts them (a few in a hundred off), "depth" the place of what is asked in tenths of the document (0 to 9),
null where the questions ask all over it. All names of two parts and numbers are held out from training, and so are
the sentences and questions (tools/demo_facts.py), save in plain_facts and the tasks that end in _seen. "trained" says whether the model has seen tasks of
that form; those it has not are there to be reported as such. The same arguments give the same bytes. With --ask-all the
same documents come with questions about everything that they tell in the same way as the one asked for, each with
a "depth" of its own. Standard library only.
"""

import argparse
import json
import pathlib
import random
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "tools"))
import demo_data  # noqa: E402
import demo_facts as facts  # noqa: E402

DEPTHS = 10
PIECE = re.compile(r"\n+|[A-Za-z]+|[0-9]{1,2}|[^\sA-Za-z0-9]")
TOWN = re.compile("(?:%s)(?:%s)$" % ("|".join(facts.TOWN_A), "|".join(facts.TOWN_B)))


def n_tokens(text):
    pieces = PIECE.findall(text)
    return len(pieces) + sum(1 for p in pieces if p not in facts.TOWNS and TOWN.match(p))


def write(rng, length, told, taken):
    """A document of about `length` tokens; told: (where from 0 to 1, sentence)."""
    size = sum(n_tokens(s) for _, s in told) + 8
    filler = []
    while True:
        s = demo_data.filler_sentence(rng, True, 0.1, taken)
        size += n_tokens(s) + (len(filler) % 5 == 0)
        if size > length:
            break
        filler.append(s)
    for where, s in sorted(told, reverse=True):
        filler.insert(round(where * len(filler)), s)
    return paragraphs(rng, filler)


def paragraphs(rng, sentences):
    out, i = [], 0
    while i < len(sentences):
        n = rng.randint(3, 7)
        out.append(" ".join(sentences[i:i + n]))
        i += n
    return "\n\n".join(out) + "\n"


def anywhere(rng, sentences):
    return [(rng.random(), s) for s in sentences]


def at(rng, depth):
    return (depth + rng.random()) / DEPTHS


def new_draw(rng, kinds):
    return facts.Draw(rng, True, 0.0, kinds)


def say(rng, fact, form="held"):
    return facts.state(rng, fact, form)


def ask(rng, fact, form="held"):
    return {"q": facts.ask(rng, fact, form), "a": list(fact[2])}


def needle(rng, depth, kinds, n_others, near):
    """One fact at the depth and others like it anywhere."""
    d = new_draw(rng, kinds)
    d.fill(1 + n_others, 0.0, near)
    told = [(at(rng, depth), say(rng, d.facts[0]))] + anywhere(rng, [say(rng, f) for f in d.facts[1:]])
    return d, told, [ask(rng, d.facts[0])]


def plain_facts(rng, depth):
    """Six kinds in their first wording, with names of one token: the one task whose words were all trained."""
    d = facts.Draw(rng, True, 1.0, facts.CLASSIC)
    d.fill(8, 0.15)
    return d, anywhere(rng, [facts.state(rng, f, "plain") for f in d.facts]), [
        {"q": facts.ask(rng, f, "plain"), "a": list(f[2])} for f in d.facts]


def passkey(rng, depth):
    return needle(rng, depth, ["pass"], 0, 0.0)


def niah_single(rng, depth):
    return needle(rng, depth, ["magic"], 0, 0.0)


def niah_multikey(rng, depth):
    return needle(rng, depth, ["magic"], 7, 0.0)


def niah_confusable(rng, depth):
    return needle(rng, depth, ["magic"], 7, 1.0)


def niah_multivalue(rng, depth, form="held"):
    """Two values of one key in two sentences, the first of them at the depth; other keys with theirs."""
    d = new_draw(rng, ["market"])
    d.fill(4)
    first = at(rng, depth)
    second = first + (1 - first) * rng.random()
    one, two = facts.state_split(rng, d.facts[0], form)
    others = []
    for f in d.facts[1:]:
        others += facts.state_split(rng, f, form)
    told = [(first, one), (second, two)] + anywhere(rng, others)
    # at the same place the later sentence stays behind
    if round(first * 1000) == round(second * 1000):
        return niah_multivalue(rng, depth, form)
    return d, told, [ask(rng, d.facts[0], form)]


def niah_multiquery(rng, depth):
    d = new_draw(rng, ["code"])
    d.fill(6)
    a, b = d.facts[:2]
    told = [(at(rng, depth), say(rng, a))] + anywhere(rng, [say(rng, f) for f in d.facts[1:]])
    return d, told, [{"q": facts.ask_both(rng, a, b, "held"), "a": a[2] + b[2]}]


def document_qa(rng, depth, form="held"):
    """Facts of all kinds, with shared keys and names alike; all of them asked."""
    d = new_draw(rng, [k for k in facts.KINDS if k != "pass"])
    d.fill(12, 0.3, 0.3)
    return d, anywhere(rng, [say(rng, f, form) for f in d.facts]), [ask(rng, f, form) for f in d.facts]


def two_hop(rng, depth, form="held"):
    d = new_draw(rng, [k for k in facts.KINDS if k not in ("pass", "magic")])
    chains = []
    while len(chains) < 4:
        c = d.chain()
        if c:
            chains.append(c)
    d.fill(12, 0.3, 0.3)
    return d, anywhere(rng, [say(rng, f, form) for f in d.facts]), [
        {"q": facts.ask_hop(rng, a, b, form), "a": list(b[2])} for a, b in chains]


def not_stated(rng, depth, form="held"):
    d = new_draw(rng, [k for k in facts.KINDS if k != "pass"])
    d.fill(12, 0.3, 0.3)
    gone = [m for m in (d.missing() for _ in range(4)) if m]
    return d, anywhere(rng, [say(rng, f, form) for f in d.facts]), [ask(rng, f, form) for f in gone]


def seen(make):
    """The task in wordings of the training data; names and numbers stay held out."""
    return lambda rng, depth: make(rng, depth, "train")


def variable_tracking(hops):
    def make(rng, depth):
        """Names for a number: the first holds it, each next one is said to equal the one before. A second
        chain of the same length is there to be confused with."""
        names = rng.sample([a + b for a in "BCDFGHJKLMNPQRST" for b in "AEIOU"], 2 * (hops + 1))
        told, ends = [], []
        for chain in (names[:hops + 1], names[hops + 1:]):
            number = facts.draw_value(rng, "long", True)[0]
            spots = sorted(rng.random() for _ in range(hops))
            first = at(rng, depth) if not ends else rng.random()
            spots = [first] + [first + (1 - first) * s for s in spots]
            told.append((spots[0], "VAR %s = %s." % (chain[0], number)))
            told += [(p, "VAR %s = VAR %s." % (b, a)) for p, a, b in zip(spots[1:], chain, chain[1:])]
            ends.append((chain[-1], number))
        name, number = ends[0]
        return None, told, [{"q": "What is the value of VAR %s?" % name, "a": [number]}]
    return make


TASKS = {  # name: (maker, seen in training, has a depth)
    "plain_facts": (plain_facts, True, False),
    "passkey": (passkey, True, True),
    "niah_single": (niah_single, True, True),
    "niah_multikey": (niah_multikey, True, True),
    "niah_confusable": (niah_confusable, True, True),
    "niah_multivalue": (niah_multivalue, True, True),
    "niah_multiquery": (niah_multiquery, True, True),
    "document_qa": (document_qa, True, False),
    "two_hop": (two_hop, True, False),
    "not_stated": (not_stated, True, False),
    "niah_multivalue_seen": (seen(niah_multivalue), True, True),
    "document_qa_seen": (seen(document_qa), True, False),
    "two_hop_seen": (seen(two_hop), True, False),
    "not_stated_seen": (seen(not_stated), True, False),
    "variable_tracking_2": (variable_tracking(2), True, True),
    "variable_tracking_3": (variable_tracking(3), True, True),
    "variable_tracking_4": (variable_tracking(4), True, True),
}


def ask_rest(task, rng, d, told, document, questions):
    """Questions about what was told besides what is asked already, which is told first."""
    def place(i):
        return min(int(told[i][0] * DEPTHS), DEPTHS - 1)

    if task.startswith("niah_multivalue"):
        form = "train" if task.endswith("_seen") else "held"
        rest = []
        for i, f in enumerate(d.facts):  # the values in the order of the text
            values = sorted(f[2], key=lambda v, i=i, f=f: document.index(told[2 * i + f[2].index(v)][1]))
            rest.append({"q": ask(rng, f, form)["q"], "a": values, "depth": min(place(2 * i), place(2 * i + 1))})
    elif task == "niah_multiquery":
        rest = [{"q": facts.ask_both(rng, a, b, "held"), "a": a[2] + b[2], "depth": place(i)}
                for i, (a, b) in list(enumerate(zip(d.facts, d.facts[1:])))[::2]]
    elif task.startswith("variable_tracking"):
        i = len(told) // 2
        rest = [None, {"q": "What is the value of VAR %s?" % told[-1][1].split()[1], "a": [told[i][1].split()[-1][:-1]],
                       "depth": place(i)}]
    else:
        rest = [dict(ask(rng, f), depth=place(i)) for i, f in enumerate(d.facts)]
    return questions + rest[1:]


def generate(tasks, lengths, documents, seed, ask_all=False):
    """Yields the entries; `documents` a task and length (a number, or one for each length), their depths in turn."""
    if isinstance(documents, int):
        documents = [documents] * len(lengths)
    for task in tasks:
        make, trained, deep = TASKS[task]
        for length, n_documents in zip(lengths, documents):
            for n in range(n_documents):
                rng = random.Random("%s/%d/%d/%d" % (task, length, n, seed))
                depth = n % DEPTHS
                d, told, questions = make(rng, depth)
                taken = set().union(*d.names.values()) if d else set()
                document = write(rng, length, told, taken)
                if task.startswith("niah_multivalue"):  # in the order of the text: places may be the same
                    pair = zip(questions[0]["a"], (s for _, s in told))
                    questions[0]["a"] = [v for v, s in sorted(pair, key=lambda p: document.index(p[1]))]
                if ask_all and deep:
                    rest = random.Random("%s/%d/%d/%d/rest" % (task, length, n, seed))
                    questions = ask_rest(task, rest, d, told, document, questions)
                yield {"id": "%s-%d-%d" % (task, length, n), "task": task, "trained": trained, "length": length,
                       "depth": depth if deep else None, "document": document,
                       "questions": questions}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", default="-", help="file to write; - is standard output")
    ap.add_argument("--tasks", default=",".join(TASKS))
    ap.add_argument("--lengths", default="1024,2048,4096,8192")
    ap.add_argument("--documents", type=int, default=10, help="documents for each task and length")
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--ask-all", action="store_true", help="more questions about the same documents")
    args = ap.parse_args()
    unknown = set(args.tasks.split(",")) - set(TASKS)
    if unknown:
        ap.error("no such task: " + ", ".join(sorted(unknown)))
    out = sys.stdout if args.out == "-" else open(args.out, "w", encoding="utf-8")
    with out:
        for entry in generate(args.tasks.split(","), [int(n) for n in args.lengths.split(",")], args.documents, args.seed,
                              args.ask_all):
            out.write(json.dumps(entry) + "\n")


if __name__ == "__main__":
    main()
