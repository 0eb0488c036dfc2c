"""The facts of the demo model's documents: kinds, statements, questions, and what is held out.

A kind says what its key names, what its value is, how it is stated and how it is asked. {k} is the key,
{v} the value, and in statements of two values {v} and {w}. The first statement and the first question of a kind are its plain form.
HELD ones are never used in training. Names of two parts and numbers are split by a hash: one in eight is
held out, and documents for evaluation use no others.
"""

import functools
import zlib

import demo_wordings as more
from demo_words import (ADJECTIVES, COLOURS, GOODS, LEADS, MONTHS, NOUNS, PEOPLE, SHIP_ADJ, SHIPS, SURNAMES, TAILS,
                        TOWN_A, TOWN_B, TOWNS, TRADES)

HELD_SHARE = 8  # one in so many
NOT_STATED = "not stated"
RECALL = "Repeat the previous context exactly."


class Kind:
    def __init__(self, key, value, noun, *texts):
        self.key, self.value, self.noun = key, value, noun
        self.says, self.asks, self.held_says, self.held_asks = ([s.strip() for s in t.strip().split("\n")] for t in texts)


KINDS = {
    "code": Kind("town", "code", "the gate code of {k}", """
        The gate code of {k} is {v}.
        The code for the gate of {k} is {v}.
        At {k} the gate opens with the code {v}.
        The gate of {k} has the code {v}.
        {k} keeps its gate locked with the code {v}.
        With the code {v} one opens the gate of {k}.""", """
        What is the gate code of {k}?
        Can you tell me the gate code of {k}?
        Which code opens the gate of {k}?
        What is the code for the gate of {k}?""", """
        The gate at {k} has {v} as its code.
        Who wants to open the gate of {k} must know the code {v}.""", """
        Which is the code of the gate at {k}?
        With what code does one open the gate of {k}?"""),
    "flag": Kind("town", "colour", "the flag of {k}", """
        The flag of {k} is {v}.
        The people of {k} fly a {v} flag.
        Over the roofs of {k} one sees a {v} flag.
        {k} has a flag that is {v}.
        The colour of the flag of {k} is {v}.
        A {v} flag is flown in {k}.""", """
        What colour is the flag of {k}?
        Can you tell me the colour of the flag of {k}?
        Which colour does the flag of {k} have?
        What is the colour of the flag in {k}?""", """
        In {k} the flag is {v}.
        The flag that the people of {k} fly is {v}.""", """
        Of which colour is the flag of {k}?
        What colour has the flag that is flown in {k}?"""),
    "feast": Kind("town", "month", "the feast month of {k}", """
        The feast month of {k} is {v}.
        {k} holds its feast in {v}.
        In {v} the people of {k} hold their feast.
        The great feast of {k} falls in {v}.
        Every year the feast in {k} begins in {v}.""", """
        What is the feast month of {k}?
        Can you tell me the feast month of {k}?
        In which month does {k} hold its feast?
        When is the feast of {k}?""", """
        The feast of {k} is held in {v}.
        The people of {k} have their feast every {v}.""", """
        In which month is the feast of {k} held?
        When do the people of {k} hold their feast?"""),
    "mayor": Kind("town", "person", "the mayor of {k}", """
        The mayor of {k} is {v}.
        {v} is the mayor of {k}.
        {k} has chosen {v} as its mayor.
        In {k} the mayor is called {v}.
        The people of {k} made {v} their mayor.""", """
        Who is the mayor of {k}?
        Can you tell me the mayor of {k}?
        What is the name of the mayor of {k}?
        Whom did {k} choose as mayor?""", """
        The mayor in {k} is called {v}.
        As its mayor {k} has {v}.""", """
        Who is mayor in {k}?
        What is the mayor of {k} called?"""),
    "market": Kind("town", "pair", "the market of {k}", """
        The market of {k} sells {v} and {w}.
        In the market of {k} one buys {v} and {w}.
        {k} is known for a market of {v} and {w}.
        On market days {k} sells {v} and {w}.""", """
        What does the market of {k} sell?
        What can one buy in the market of {k}?
        Which goods does {k} sell on market days?""", """
        The market in {k} is known for {v} and {w}.""", """
        Which goods does the market of {k} sell?"""),
    "home": Kind("person", "town", "the home of {k}", """
        The home of {k} is {v}.
        {k} lives in {v}.
        {k} has a house in {v}.
        {k} has lived in {v} for many years.
        In {v} stands the house of {k}.""", """
        Where is the home of {k}?
        Can you tell me the home of {k}?
        Where does {k} live?
        In which town does {k} live?""", """
        {k} has a home in {v}.
        The house of {k} stands in {v}.""", """
        In which town is the home of {k}?
        Where is the house of {k}?"""),
    "trade": Kind("person", "trade", "the trade of {k}", """
        The trade of {k} is {v}.
        {k} works as a {v}.
        {k} is a {v}.
        {k} earns a living as a {v}.
        By trade {k} is a {v}.
        {k} has learned the trade of a {v}.""", """
        What is the trade of {k}?
        Can you tell me the trade of {k}?
        What does {k} do for a living?
        What work does {k} do?""", """
        {k} lives by the work of a {v}.
        {k} does the work of a {v}.""", """
        Which trade has {k} learned?
        As what does {k} work?"""),
    "horse": Kind("person", "colour", "the horse of {k}", """
        The horse of {k} is {v}.
        {k} rides a {v} horse.
        {k} keeps a {v} horse in the stable.
        The colour of the horse of {k} is {v}.""", """
        What colour is the horse of {k}?
        Which colour does the horse of {k} have?
        What is the colour of the horse that {k} rides?""", """
        {k} has a {v} horse.
        The horse that {k} rides is {v}.""", """
        Of which colour is the horse of {k}?"""),
    "room": Kind("person", "room", "the room of {k}", """
        The room number of {k} is {v}.
        {k} sleeps in room {v}.
        Room {v} belongs to {k}.
        {k} has taken room {v} at the inn.""", """
        What is the room number of {k}?
        In which room does {k} sleep?
        Which room has {k} taken?""", """
        {k} has room number {v} at the inn.
        At the inn {k} sleeps in room {v}.""", """
        Which room belongs to {k}?"""),
    "child": Kind("person", "people", "the children of {k}", """
        The children of {k} are {v} and {w}.
        {k} has two children, {v} and {w}.
        {v} and {w} are the children of {k}.""", """
        Who are the children of {k}?
        What are the names of the children of {k}?
        How are the children of {k} called?""", """
        {k} has children called {v} and {w}.""", """
        Which children has {k}?"""),
    "cargo": Kind("ship", "good", "the cargo of {k}", """
        The cargo of {k} is {v}.
        {k} carries {v}.
        {k} is loaded with {v}.
        In the hold of {k} there is {v}.
        They loaded {v} into {k}.""", """
        What is the cargo of {k}?
        Can you tell me the cargo of {k}?
        What does {k} carry?
        What is {k} loaded with?""", """
        {k} has a cargo of {v}.
        {k} carries a load of {v} in its hold.""", """
        Which cargo does {k} have?
        What is in the hold of {k}?"""),
    "captain": Kind("ship", "person", "the captain of {k}", """
        The captain of {k} is {v}.
        {v} is the captain of {k}.
        {k} sails under {v}.
        {k} has {v} as its captain.
        The crew of {k} obeys {v}.""", """
        Who is the captain of {k}?
        Can you tell me the captain of {k}?
        What is the name of the captain of {k}?
        Under whom does {k} sail?""", """
        The captain on {k} is called {v}.
        {k} has a captain called {v}.""", """
        What is the captain of {k} called?
        Whom does the crew of {k} obey?"""),
    "port": Kind("ship", "town", "the home port of {k}", """
        The home port of {k} is {v}.
        {k} sails from {v}.
        {k} was built in the port of {v}.
        {v} is the home port of {k}.""", """
        What is the home port of {k}?
        From which town does {k} sail?
        Which town is the home port of {k}?""", """
        {k} has its home port in {v}.""", """
        In which town is the home port of {k}?"""),
    "magic": Kind("thing", "long", "the special number for {k}", """
        The special number for {k} is {v}.
        One of the special numbers for {k} is: {v}.
        The number {v} is the special number for {k}.
        For {k} the special number is {v}.""", """
        What is the special number for {k}?
        Which special number belongs to {k}?
        What is the special number for {k} mentioned in the text?""", """
        {k} has the special number {v}.""", """
        Which is the special number for {k}?"""),
    "pass": Kind("pass", "long", "{k}", """
        The pass key is {v}.
        Remember that the pass key is {v}.
        The pass key is {v}, so do not forget it.
        Let {v} be the pass key.""", """
        What is the pass key?
        Can you tell me the pass key?
        Which number is the pass key?""", """
        The number {v} is the pass key.
        Do not forget that {v} is the pass key.""", """
        What is the pass key that the text mentions?
        Do you remember the pass key?"""),
}
CLASSIC = ["code", "flag", "feast", "home", "trade", "cargo"]
LINKS = {  # kinds whose value is a key of other kinds: how a two-hop question calls it
    "home": ["the town where {k} lives", "the home of {k}"],
    "mayor": ["the mayor of {k}"],
    "captain": ["the captain of {k}"],
    "port": ["the home port of {k}"],
}
HELD_LINKS = {"home": ["the town in which {k} has a house"], "mayor": ["the person who is mayor of {k}"],
              "captain": ["the person who sails {k}"], "port": ["the port of {k}"]}
HOP_OUT = {"town": ["code", "flag", "feast", "mayor"], "person": ["home", "trade", "horse", "room"]}


def held(text):
    """Whether a name of two parts or a number belongs to the evaluation."""
    return zlib.crc32(text.encode()) % HELD_SHARE == 0


def pick(rng, draw, want_held):
    while True:
        text = draw()
        if held(text) == want_held:
            return text


def draw_name(rng, what, want_held=False, classic=0.4):
    """A name; with probability `classic` a single-token one, which is never held out."""
    if what == "pass":
        return "the pass key"
    if what == "thing":
        return "the " + pick(rng, lambda: rng.choice(ADJECTIVES) + " " + rng.choice(NOUNS), want_held)
    if rng.random() < classic:
        name = rng.choice({"town": TOWNS, "person": PEOPLE, "ship": SHIPS}[what])
    elif what == "town":
        name = rng.choice(TOWNS)
        while name in TOWNS:
            name = pick(rng, lambda: rng.choice(TOWN_A) + rng.choice(TOWN_B), want_held)
    elif what == "person":
        name = pick(rng, lambda: rng.choice(PEOPLE) + " " + rng.choice(SURNAMES), want_held)
    else:
        name = pick(rng, lambda: rng.choice(SHIP_ADJ) + " " + rng.choice(SHIPS), want_held)
    return "the " + name if what == "ship" else name


def near_name(rng, what, name, want_held=False):
    """Another name that shares a part with `name`, if it has parts."""
    mine = parts(name)
    for _ in range(200 if want_held or len(mine) == 1 else 0):
        other = parts(draw_name(rng, what, want_held, 0.0))
        if len(mine) == len(other) == 2 and (mine[0] == other[0]) != (mine[1] == other[1]):
            return join(what, other)
    while len(mine) == 2 and not want_held:  # as above, and quicker
        other = parts(draw_name(rng, what, False, 0.0))
        i = rng.randrange(2)
        near = join(what, [mine[0], other[1]] if i else [other[0], mine[1]])
        if other[i] != mine[i] and not held(near.removeprefix("the ")) and near not in TOWNS:
            return near
    return draw_name(rng, what, want_held)


def join(what, two):
    return ("the " if what in ("ship", "thing") else "") + ("" if what == "town" else " ").join(two)


@functools.lru_cache(100000)
def parts(name):
    """The two parts of a name, or its one part. Not to be changed."""
    name = name.removeprefix("the ")
    if " " in name:
        return name.split(" ")
    if name in TOWNS:
        return [name]
    for a in TOWN_A:
        if name.startswith(a) and name[len(a):] in TOWN_B:
            return [a, name[len(a):]]
    return [name]


def draw_value(rng, what, want_held=False, classic=0.4):
    """The values of a fact, as a list of one or two texts."""
    if what in ("town", "person"):
        return [draw_name(rng, what, want_held, classic)]
    if what in ("code", "long", "room"):
        n = {"code": 4, "long": 6, "room": 2}[what]
        if what == "room":
            return ["%02d" % rng.randrange(10, 100)]
        return [pick(rng, lambda: "%0*d" % (n, rng.randrange(10 ** n)), want_held)]
    if what == "pair":
        return rng.sample(GOODS, 2)
    if what == "people":
        return rng.sample(PEOPLE, 2)
    return [rng.choice({"colour": COLOURS, "month": MONTHS, "trade": TRADES, "good": GOODS}[what])]


def capital(text):
    return text[0].upper() + text[1:]


def answer_of(values):
    return " and ".join(values)


BASIC = 0.25  # how often the form "wide" takes one of the wordings of "train"
DRESSED = 0.2  # how often a fact has words in front of it, and behind it


@functools.lru_cache(None)
def wide(what, kind_name):
    """The wordings of the form "wide" (demo_wordings.py), without those the evaluation uses."""
    if what == "link":
        return more.Pool([], [[t] for t in more.noun_phrases(more.LINKS[kind_name])], HELD_LINKS[kind_name])
    if what == "split":
        return more.Pool([], [more.expand(p) for p in more.patterns(more.SPLIT[kind_name])], SPLIT[kind_name][1])
    kind_ = KINDS[kind_name]
    lists, taboo = (more.statements(kind_name), kind_.held_says) if what == "say" else (
        more.questions(kind_name), kind_.held_asks)
    if what == "say" and kind_.value in ("colour", "trade", "good", "pair"):  # no capital for what is asked
        lists = [[[t for t in texts if not t.startswith("{v}")] for texts in part] for part in lists]
    if kind_name == "pass":
        lists = [[[t.replace("{k}", "the pass key") for t in texts] for texts in part] for part in lists]
    return more.Pool(*lists, taboo)


def wording(rng, what, kind_name, basic, form):
    """One of `basic`, or with the form "wide" mostly another."""
    if form != "wide" or rng.random() < BASIC:
        return rng.choice(basic)
    return wide(what, kind_name).draw(rng)


def dress(rng, text, form):
    """Perhaps words in front of and behind a statement."""
    leads, tails = (LEADS, TAILS) if form == "train" or rng.random() < 0.5 else (more.LEADS, more.TAILS)
    if rng.random() < DRESSED:
        text = rng.choice(leads) + text[0].lower() + text[1:]
    if rng.random() < DRESSED:
        text = text[:-1] + rng.choice(tails) + "."
    return text


def state(rng, fact, form="train"):
    """The sentence of a fact. Forms: plain, train, wide, held."""
    name, key, values = fact
    kind_ = KINDS[name]
    text = wording(rng, "say", name, {"plain": kind_.says[:1], "held": kind_.held_says}.get(form, kind_.says), form)
    if form in ("train", "wide"):
        text = dress(rng, text, form)
    return capital(text.replace("{k}", key).replace("{v}", values[0]).replace("{w}", values[-1]))


def ask(rng, fact, form="train"):
    kind_ = KINDS[fact[0]]
    text = {"plain": kind_.asks[:2], "held": kind_.held_asks}.get(form, kind_.asks)
    return capital(wording(rng, "ask", fact[0], text, form).replace("{k}", fact[1]))


def ask_hop(rng, first, second, form="train"):
    """Asks for the fact `second`, whose key is the value of `first`, without naming that key."""
    link = wording(rng, "link", first[0], (HELD_LINKS if form == "held" else LINKS)[first[0]], form)
    kind_ = KINDS[second[0]]
    text = wording(rng, "ask", second[0], kind_.held_asks if form == "held" else kind_.asks, form)
    return capital(text.replace("{k}", link.replace("{k}", first[1])))


def ask_both(rng, one, two, form="train"):
    """One question for two facts of a kind; the answer is the first value and the second."""
    noun = KINDS[one[0]].noun
    words = {"held": ["Can you name {} and {}?"], "wide": more.BOTH}.get(form, ["What are {} and {}?", "Can you tell me {} and {}?"])
    return capital(rng.choice(words)).format(noun.replace("{k}", one[1]), noun.replace("{k}", two[1]))


# Values of a pair in two sentences: the answer names them in the order of the text.
SPLIT = {
    "market": (["The market of {k} sells {v}.", "In the market of {k} one buys {v}.", "{k} is known for a market of {v}."],
               ["The market in {k} is known for {v}."]),
    "child": (["{k} has a child called {v}.", "{v} is a child of {k}.", "A child of {k} is {v}."],
              ["One child of {k} is called {v}."]),
}


def state_split(rng, fact, form="train"):
    """Two sentences, each with one value of the pair."""
    pool = SPLIT[fact[0]][form == "held"]
    return [capital(wording(rng, "split", fact[0], pool, form).replace("{k}", fact[1]).replace("{v}", v)) for v in fact[2]]


def clash(a, b):
    """Names too alike to be told apart in one document: Tobias and Tobias Mercer."""
    a, b = parts(a), parts(b)
    return len(a) != len(b) and bool(set(a) & set(b))


class Draw:
    """Draws the facts of one document: distinct (kind, key), and values that differ where they can."""

    def __init__(self, rng, want_held=False, classic=0.4, kinds=None):
        self.rng, self.held, self.classic = rng, want_held, classic
        self.kinds = kinds or list(KINDS)
        self.facts, self.used, self.names, self.taken = [], set(), {}, set()

    def name(self, what, near=0.0):
        old = self.names.setdefault(what, [])
        for _ in range(100):
            if old and what != "pass" and self.rng.random() < near:
                name = near_name(self.rng, what, self.rng.choice(old), self.held)
            else:
                name = draw_name(self.rng, what, self.held, self.classic)
            if name not in old and not any(clash(name, o) for o in old):
                break
        return name

    def add(self, kind_name, key, values=None):
        kind_ = KINDS[kind_name]
        if (kind_name, key) in self.used:
            return None
        for _ in range(20):
            got = values or draw_value(self.rng, kind_.value, self.held, self.classic)
            names = self.names.get(kind_.value, [])
            fresh = not (set(got) & self.taken) and key not in got
            if values or (fresh and not any(clash(got[0], o) for o in names)):
                break
        else:
            if key in got:
                return None
        fact = (kind_name, key, got)
        self.used.add((kind_name, key))
        self.taken.update(got)
        self.facts.append(fact)
        for what, name in ((kind_.key, key), (kind_.value, got[0])):
            if what in ("town", "person", "ship", "thing", "pass") and name not in self.names.setdefault(what, []):
                self.names[what].append(name)
        return fact

    def one(self, shared=0.0, near=0.0):
        kind_name = self.rng.choice(self.kinds)
        what = KINDS[kind_name].key
        old = self.names.get(what, [])
        if old and self.rng.random() < shared:
            key = self.rng.choice(old)
        else:
            key = self.name(what, near)
        return self.add(kind_name, key)

    def fill(self, n, shared=0.0, near=0.0):
        for _ in range(20 * n):
            if len(self.facts) >= n:
                break
            self.one(shared, near)

    def chain(self):
        """Two facts, the second about the value of the first. Or None."""
        links = [k for k in self.kinds if k in LINKS] or list(LINKS)
        first = self.rng.choice(links)
        value_type = KINDS[first].value
        outs = [k for k in HOP_OUT[value_type] if k in self.kinds and k != first] or HOP_OUT[value_type]
        second = self.rng.choice([k for k in outs if k != first] or outs)
        one = self.add(first, self.name(KINDS[first].key))
        two = one and self.add(second, one[2][0])
        return two and (one, two)

    def chains(self):
        """All pairs of facts where the value of the first is the key of the second."""
        by_key = {}
        for f in self.facts:
            by_key.setdefault((KINDS[f[0]].key, f[1]), []).append(f)
        return [(a, b) for a in self.facts if a[0] in LINKS
                for b in by_key.get((KINDS[a[0]].value, a[2][0]), []) if b is not a]

    def missing(self):
        """A kind and a key about which the document says nothing, like what it does say."""
        for _ in range(100):
            f = self.rng.choice(self.facts)
            what = KINDS[f[0]].key
            here = [g[0] for g in self.facts if KINDS[g[0]].key == what]
            if self.rng.random() < 0.5:  # a key of the document, another kind
                kind_name = self.rng.choice(here if self.rng.random() < 0.7 else
                                            [k for k in KINDS if KINDS[k].key == what and k in self.kinds] or here)
                key = self.rng.choice(self.names[what])
            else:  # a kind of the document, another key
                kind_name = f[0]
                key = self.name(what, 0.5)
            if (kind_name, key) not in self.used and not any(clash(key, o) for o in self.names[what]):
                return kind_name, key, [NOT_STATED]
        return None
