"""Generated documents for the demo model: long filler prose with facts planted in it.

A document is a travel chronicle made from sentence templates (demo_words.py). Between the filler
sentences stand facts (demo_facts.py). Names and values are drawn at random for every document, so the
weights cannot know an answer: it has to be read from the document. Documents for evaluation use other
sentences, other questions, other names of two parts, other numbers and some other filler.

Training documents are assembled from words that were tokenized once. That is exact, because the
tokenizer's regular expression never joins text across the space in front of a word.
"""

import random

import demo_facts as facts
import demo_tracks
from demo_facts import NOT_STATED, RECALL  # noqa: F401
from demo_words import FILLER, HELD_FILLER, HELD_MENTIONS, MENTIONS, SLOTS, TITLES

QUESTION_PREFIX = "\n\nQuestion: "
ANSWER_PREFIX = "\nAnswer:"
POOL = 20000  # filler sentences kept at hand, each as tokens; a few are replaced for every document


def filler_sentence(rng, want_held=False, mentions=0.0, taken=(), named=None):
    """One filler sentence; with probability `mentions` it names people, towns or ships not in `taken`.
    The names are added to `named`."""
    if rng.random() < mentions:
        out = rng.choice(HELD_MENTIONS if want_held else MENTIONS)
    else:
        out = rng.choice(HELD_FILLER + FILLER if want_held else FILLER)
    while "{" in out:
        a, b = out.index("{"), out.index("}")
        slot = out[a + 1:b]
        if slot in SLOTS:
            word = rng.choice(SLOTS[slot])
        else:
            while True:
                word = facts.draw_name(rng, slot, want_held)
                if word not in taken and not any(facts.clash(word, t) for t in taken):
                    break
            if named is not None:
                named.append(word)
            if slot == "ship" and out[:a].lower().endswith("the "):
                word = word[4:]
        out = out[:a] + word + out[b + 1:]
    return facts.capital(out)


def sentences_of(rng, fact_list, form, split=0.0):
    """The facts' sentences in random order. Pairs told in two sentences get their values in the order
    of the text, in `fact_list` itself."""
    parts = []
    for i, f in enumerate(fact_list):
        if f[0] in facts.SPLIT and rng.random() < split:
            parts += [(i, j, s) for j, s in enumerate(facts.state_split(rng, f, form))]
        else:
            parts.append((i, None, facts.state(rng, f, form)))
    rng.shuffle(parts)
    order = {}
    for i, j, _ in parts:
        if j is not None:
            order.setdefault(i, []).append(j)
    for i, js in order.items():
        f = fact_list[i]
        f[2][:] = [f[2][j] for j in js]
    return [s for _, _, s in parts]


def mix(rng, told, filler):
    """Places the facts' sentences at random among the filler, keeping the order of both."""
    slots = sorted(rng.randrange(len(filler) + 1) for _ in told)
    out, j = [], 0
    for i in range(len(filler) + 1):
        while j < len(told) and slots[j] == i:
            out.append(told[j])
            j += 1
        if i < len(filler):
            out.append(filler[i])
    return out


def corpus(seed, n):
    """Text to train the tokenizer on. The parts of names and the values are stressed, each alone, so that
    each becomes one token."""
    rng = random.Random(seed)
    words = [w for pool in (facts.PEOPLE, facts.TOWNS, facts.SHIPS, facts.COLOURS, facts.TRADES, facts.GOODS,
                            facts.MONTHS, facts.SURNAMES, facts.SHIP_ADJ, facts.NOUNS, facts.ADJECTIVES) for w in pool]
    words += [w for v in SLOTS.values() for p in v for w in p.split()]
    for _ in range(n):
        yield " ".join(filler_sentence(rng) for _ in range(4)) + "\n\n"
        d = facts.Draw(rng)
        d.fill(3)
        yield " ".join(facts.state(rng, f) for f in d.facts)
        yield "".join(facts.LEADS + facts.TAILS) if rng.random() < 0.1 else ""
        yield QUESTION_PREFIX + facts.ask(rng, d.facts[0]) + ANSWER_PREFIX + " " + facts.answer_of(d.facts[0][2])
        yield " " + " ".join(rng.choice(words) for _ in range(120))
        yield " " + " ".join(rng.choice(facts.TOWN_A) + rng.choice(facts.TOWN_B) for _ in range(120))
        yield " " + " ".join("%04d" % rng.randrange(10000) for _ in range(10))


class Recipe:
    """What a document and its questions are like. The shares of question types are weights."""

    def __init__(self, n_facts=(3, 4), n_questions=3, form="train", held=False, classic=0.4, few_kinds=0.6,
                 shared=0.2, near=0.1, chains=(0, 0), split=0.0, mentions=0.0, kinds=None, alike=False, tracks=None, **types):
        self.n_facts, self.n_questions, self.form, self.held, self.classic = n_facts, n_questions, form, held, classic
        self.few_kinds, self.shared, self.near, self.chains = few_kinds, shared, near, chains
        self.split, self.mentions, self.kinds, self.alike, self.tracks = split, mentions, kinds, alike, tracks
        self.types = types or {"single": 1.0}


def draw_document(rng, r):
    """The facts of a document: a Draw."""
    kinds = list(r.kinds or facts.KINDS)
    if r.alike:  # all chains lead over the same two kinds, so the kinds do not tell the answer
        first = rng.choice(list(facts.LINKS))
        kinds = [first, rng.choice([k for k in facts.HOP_OUT[facts.KINDS[first].value] if k != first])]
    elif rng.random() < r.few_kinds:  # otherwise the kind alone tells the answer and keys are not learned
        kinds = rng.sample(kinds, min(len(kinds), rng.choice([1, 1, 2, 3])))
    d = facts.Draw(rng, r.held, r.classic, kinds)
    n = rng.randint(*r.n_facts)
    for _ in range(rng.randint(*r.chains)):
        if len(d.facts) + 2 <= n:
            d.chain()
    d.fill(n, r.shared, r.near)
    return d


def draw_question(rng, r, d):
    """(type, question, values) about the document d."""
    what = rng.choices(list(r.types), list(r.types.values()))[0]
    if what == "hop":
        chains = d.chains()
        if chains:
            a, b = rng.choice(chains)
            return "hop", facts.ask_hop(rng, a, b, r.form), b[2]
    elif what == "none":
        f = d.missing()
        if f:
            return "none", facts.ask(rng, f, r.form), f[2]
    elif what == "both":
        one = [f for f in d.facts if len(f[2]) == 1]
        a = rng.choice(one or d.facts)
        others = [f for f in one if f[0] == a[0] and f is not a]
        if others:
            b = rng.choice(others)
            return "both", facts.ask_both(rng, a, b, r.form), a[2] + b[2]
    f = rng.choice(d.facts)
    return "pair" if len(f[2]) == 2 else "single", facts.ask(rng, f, r.form), f[2]


class Maker:
    """Builds documents and training samples as token ids."""

    def __init__(self, tok, seed):
        self.tok, self.rng, self.cache = tok, random.Random(seed), {}
        self.bos, self.eos = tok.token_to_id("<|bos|>"), tok.token_to_id("<|eos|>")
        self.question, self.answer = self.enc(QUESTION_PREFIX)[:-1], self.enc(ANSWER_PREFIX)
        self.fillers = {}  # (held, mentions): sentences as (tokens, tokens at the start of a paragraph, names)

    def enc(self, text):
        ids = self.cache.get(text)
        if ids is None:
            ids = self.tok.encode(text, add_special_tokens=False).ids
            if len(self.cache) < 300000:
                self.cache[text] = ids
        return ids

    def enc_words(self, text):
        """As enc, word by word: every space starts a new piece, so the parts can be cached."""
        head, *rest = text.split(" ")
        out = list(self.enc(head)) if head else []
        for w in rest:
            out += self.enc(" " + w)
        return out

    def sentence(self, text):
        """Tokens of a sentence behind a space, and at the start of a paragraph."""
        head, space, rest = text.partition(" ")
        rest = self.enc_words(space + rest)
        return self.enc_words(" " + head) + rest, list(self.enc(head)) + rest

    def filler(self, want_held, mentions, taken, singles, pieces):
        """A sentence of filler that names nothing the facts name: as filler_sentence, from a store of sentences."""
        rng = self.rng
        kind = (want_held, rng.random() < mentions)
        pool = self.fillers.setdefault(kind, [])
        while True:
            i = rng.randrange(POOL)
            if i >= len(pool) or rng.random() < 0.02:
                names = []
                text = filler_sentence(rng, want_held, float(kind[1]), (), names)
                made = (*self.sentence(text), [(n, facts.parts(n)) for n in names])
                if i >= len(pool):
                    pool.append(made)
                else:
                    pool[i] = made
            else:
                made = pool[i]
            if not any(n in taken or (len(p) == 1 and p[0] in pieces) or (len(p) == 2 and not singles.isdisjoint(p))
                       for n, p in made[2]):
                return made

    def document(self, n_tokens, r, d=None, told=None):
        """(ids, ends of its sentences, Draw) of a document of at most n_tokens."""
        rng = self.rng
        d = d or draw_document(rng, r)
        told = told or sentences_of(rng, d.facts, r.form, r.split)
        taken = set().union(*d.names.values())
        cut = [facts.parts(n) for n in taken]
        singles, pieces = {p[0] for p in cut if len(p) == 1}, {x for p in cut if len(p) == 2 for x in p}
        told = [self.sentence(t) for t in told]
        size = sum(len(t[0]) + 1 for t in told) + 14
        filler = []
        while size < n_tokens:
            t = self.filler(r.held, r.mentions, taken, singles, pieces)
            size += len(t[0]) + (len(filler) % 4 == 0)
            if size < n_tokens:
                filler.append(t)
        ids, ends, start = [self.bos], [], True
        if n_tokens > 300 and rng.random() < 0.5:
            ids += self.enc(rng.choice(TITLES)) + self.enc("\n\n")
        left = rng.randint(3, 7)
        order = mix(rng, told, filler)
        for i, t in enumerate(order):
            ids += t[1] if start else t[0]
            left -= 1
            start = left == 0 and i + 1 < len(order)
            if start:
                ids += self.enc("\n\n")
                left = rng.randint(3, 7)
            ends.append(len(ids))
        return ids, ends, d

    def pairs(self, n_tokens, n_facts):
        """Bare facts, "Marlow green Tobias baker", and then the same again in another order, with or
        without "is" in between, or asked with "Marlow?\\nAnswer: green"."""
        rng = self.rng
        mid = self.enc(" is") if rng.random() < 0.6 else []
        end = self.enc(".") if rng.random() < 0.6 else []
        ask = self.enc("?") + self.answer if rng.random() < 0.7 else mid
        stop = [self.eos] if ask is not mid else end
        ids, again, seen = [self.bos], [], set()
        while len(again) < n_facts:
            k = facts.draw_name(rng, rng.choice(["town", "person", "ship"]), classic=0.6).removeprefix("the ")
            if k in seen:
                continue
            seen.add(k)
            v = facts.draw_value(rng, rng.choice(["colour", "trade", "good", "month", "code", "town", "person"]))[0]
            k, v = self.enc_words(" " + k), self.enc_words(" " + v)
            ids += k + mid + v + end
            again.append((k + ask, v, stop))
        w = [0.0] * len(ids)
        while len(ids) < n_tokens:
            k, v, s = rng.choice(again)
            ids, w = ids + k + v + s, w + [0.0] * len(k) + [1.0] * len(v) + [0.01] * len(s)
        return ids[:n_tokens], w[:n_tokens], 1, []

    def recall(self, n_tokens, r):
        """The document and then all of it once more."""
        n = self.rng.randint(n_tokens // 4, n_tokens // 2 - 10)
        doc, ends, _ = self.document(n, r)
        # as text: the answer starts with a space, paragraphs stay
        text = " " + self.tok.decode(doc[1:])
        answer = self.tok.encode(text, add_special_tokens=False).ids + [self.eos]
        q = self.question + self.enc_words(" " + RECALL) + self.answer
        ids = doc + q + answer
        w = [0.0] + [0.1] * (len(doc) - 1) + [0.0] * len(q) + [1.0] * len(answer)
        pad = n_tokens - len(ids)
        return (ids + [self.eos] * pad)[:n_tokens], (w + [0.0] * pad)[:n_tokens], len(doc), ends

    def sample(self, n_tokens, r, lm=0.1):
        """One training sample of exactly n_tokens (padded with EOS of weight 0): ids, the weight of each
        target, the length of the document, the ends of its sentences."""
        rng = self.rng
        d = draw_document(rng, r)
        told = sentences_of(rng, d.facts, r.form, r.split)
        tail, tw, asked = [], [], []
        if r.tracks:
            chains, asked = demo_tracks.draw(rng, rng.randint(*r.tracks), (1, 5))
            told = mix(rng, told, chains)
        if r.form == "plain" and rng.random() < 0.6:  # the facts once more: copying behind a key comes first
            for f in rng.sample(d.facts, len(d.facts)):
                a, n = self.enc_words(" " + facts.state(rng, f, "plain")), len(self.enc_words(" " + f[2][-1]))
                tail += a
                tw += [lm] * (len(a) - n - 1) + [1.0] * n + [lm]
        room = n_tokens - sum(len(t) // 4 for t in told) - 80
        seen = set()
        for i in range(len(asked) + r.n_questions):
            if i < len(asked):
                text, value = asked[i]
                values = [value]
            else:
                for _ in range(3):  # rather what was not asked before
                    what, text, values = draw_question(rng, r, d)
                    if what == "none" or (what, *values) not in seen:
                        break
                seen.add((what, *values))
            q = self.question + self.enc_words(" " + text) + self.answer
            a = self.enc_words(" " + facts.answer_of(values)) + [self.eos]
            if tail and len(tail) + len(q) + len(a) > room:
                break
            tail += q + a
            tw += [lm * 0.2] * len(q) + [1.0] * len(a)
        ids, ends, d = self.document(n_tokens - len(tail), r, d, told)
        if r.form != "plain" and rng.random() < 0.2:  # a file that ends in a newline
            tail[:1] = self.enc("\n\n\n")
            tw = [0.0] * (len(self.enc("\n\n\n")) - 1) + tw
        n = len(ids)
        w = [0.0] + [lm] * (n - 1) + tw
        ids = ids + tail
        over = len(ids) - n_tokens
        if over > 0:
            ids, w = ids[:n_tokens], w[:n_tokens]
        else:
            ids, w = ids + [self.eos] * -over, w + [0.0] * -over
        return ids, w, n, ends
