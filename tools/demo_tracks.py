"""Chains of assignments for the demo model: a name gets a number, others get what the one before them has.

Names of a consonant and a vowel, the word VAR and the question of bench/quality_suites.py are kept for the
evaluation; training uses other names, other words in front of them and other questions.
"""

from demo_facts import pick
from demo_wordings import expand, patterns

CAPITALS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
HELD_NAMES = {a + b for a in "BCDFGHJKLMNPQRST" for b in "AEIOU"}
WORDS = ["LET", "SET", "DEF", "NUM", "VAL", "REG", "INT", "KEY", "CELL", "the variable", "the name", "slot", "box"]
FIRST = [expand(p) for p in patterns("""
    {a} = {v}.
    {a} := {v}.
    {a} [is|equals|holds|gets|has|stands for] {v}.
    [Let|We let] {a} [be|equal|have the value] {v}.
    The [value|number] of {a} is {v}.
    [Assign|Give] {v} to {a}.
    {v} is [put|stored|kept] in {a}.
    {a}: {v}.""")]
NEXT = [expand(p) for p in patterns("""
    {b} = {a}.
    {b} = {a}.
    {b} := {a}.
    {b} [is|equals|gets|is the same as|is set to|copies|takes its value from] {a}.
    [Let|We let] {b} [be|equal|be the same as] {a}.
    The [value|number] of {b} is [that|the one] of {a}.
    [Assign|Give] {a} to {b}.
    {a} is [put|stored|copied] into {b}.
    {b}: {a}.""")]
ASK = [t for p in patterns("""
    [What|Which number] [is|does|was] {a}?
    [What|Which] [number|value] does {a} [have|hold|stand for|get]?
    [Tell me|Say|Give|Find] the [value|number] of {a}.
    [What is|Which is|What was|Can you tell me] the [number|final value|number behind|content] of {a}?
    [Do you know|I need] the value of {a}[?|.]
    {a} equals what?
    {a} = ?""") for t in expand(p)]


def draw_name(rng, seen):
    while True:
        name = "".join(rng.choice(CAPITALS) for _ in range(rng.choice([2, 2, 2, 3])))
        if name not in HELD_NAMES and name not in seen:
            seen.add(name)
            return name


def draw(rng, n_chains, hops):
    """The sentences in their order, and questions [(question, value)] about every name."""
    seen, chains, asked = set(), [], []
    word = rng.choice(WORDS) if rng.random() < 0.5 else "".join(rng.choice(CAPITALS) for _ in range(3))
    word = "" if rng.random() < 0.2 or word == "VAR" else word + " "
    one = rng.choice(FIRST) if rng.random() < 0.5 else None  # one wording in all of the document, or many
    two = rng.choice(NEXT) if one else None
    for _ in range(n_chains):
        names = [word + draw_name(rng, seen) for _ in range(rng.randint(*hops) + 1)]
        value = pick(rng, lambda: "%06d" % rng.randrange(10 ** 6), False)
        told = [rng.choice(one or rng.choice(FIRST)).replace("{a}", names[0]).replace("{v}", value)]
        for a, b in zip(names, names[1:]):
            told.append(rng.choice(two or rng.choice(NEXT)).replace("{a}", a).replace("{b}", b))
        chains.append(told)
        asked += [(rng.choice(ASK).replace("{a}", n), value, i == len(names) - 1) for i, n in enumerate(names)]
    told = []
    while chains:  # each chain in its order, the chains mixed
        chain = rng.choice(chains)
        told.append(chain.pop(0))
        chains = [c for c in chains if c]
    rng.shuffle(asked)
    asked.sort(key=lambda q: not q[2] and rng.random() < 0.6)  # ends of chains come first more often
    return [t[0].upper() + t[1:] for t in told], [(q[0].upper() + q[1:], v) for q, v, _ in asked]
