"""Generated documents for the demo model: long filler prose with facts planted in it.

A document is a travel chronicle made from sentence templates. Between the filler sentences stand
fact sentences of the form "The flag of Marlow is green." Names and values are drawn at random for
every document, so the weights cannot know an answer: it has to be read from the document.

Training documents are assembled from pieces that were tokenized once. That is exact, because the
tokenizer's regular expression never joins text across the space in front of a word.
"""

import random

PEOPLE = """Tobias Helena Martin Agnes Conrad Beatrix Edmund Clara Felix Dorothea Gideon Edith Hugo Flora
Jasper Greta Lambert Harriet Magnus Ingrid Nestor Johanna Oswald Katrin Philip Lavinia Quentin Matilda Rupert
Nora Silas Ottilie Tristan Paula Ulric Rosalind Victor Sabina Walter Theodora Xaver Ursula Yorick Verena
Anselm Wilma Bertram Yvonne Cyril Adela Dietrich Brigid Ephraim Cecilia Florian Dinah Gustav Elspeth Herman
Frieda Isidor Gwendolen Julius Hedwig Kaspar Isolde Leopold Judith Moritz Kunigund Norbert Lucia Otmar
Mirabel Percival Nadia Reinhold Olympia Sebald Petra Thaddeus Ramona Urban Sidonia Valentin Tabitha Wendel
Viola Zacharias Winifred Ambrose Zenobia Basil Arabella Clement Bettina Damian Corinna""".split()

TOWNS = """Marlow Hadley Brenford Castleton Dunmore Elmsworth Fairhaven Glenwick Harrowgate Ironbridge
Kestwick Langford Millbrook Northam Oakhurst Pendleton Quarrington Ravensby Stonefield Thornbury Underhill
Valmont Westerly Yarrow Ashdown Birchley Cranmere Dovedale Eastwick Foxley Greystoke Holmfirth Inverlyn
Jarrowby Kilburn Linfield Moorgate Netherby Orford Penrith Redcliff Selwood Tamworth Upton Vinehall Wexcombe
Aldgrove Bexhill Coldwater Darnley Emberton Fernhill Goldsby Highmoor Ilkstone Junewell Kingsmere Lowick
Mapleton Newbold Oxley Pinebury Quillan Rosedale Saltash Tilbury Ulverton Vexford Winslow Yelland Amberley
Blackfen Caldwell Denholm Everdale Farnborough Gorsley Hollin Islip Juniper Kelmscot Larkspur Merrow Nunton
Otterburn Pelham Radley Sandgate Tiverton Uffington Venlow Wadhurst Alnwick Burwash Corfe Ditchling
Exmoor Frome Girton Hythe""".split()

SHIPS = """Petrel Albatross Kestrel Falcon Heron Osprey Gannet Plover Curlew Swallow Nightingale Pelican
Cormorant Merlin Harrier Sparrow Skylark Kingfisher Bittern Avocet Dunlin Lapwing Wagtail Goshawk Raven
Starling Magpie Thrush Linnet Siskin Fulmar Puffin Sandpiper Whimbrel Godwit Turnstone Redshank Greylag
Pintail Teal""".split()

COLOURS = """red green blue yellow white black purple orange brown grey pink silver golden crimson scarlet
violet turquoise ivory amber indigo""".split()

TRADES = """baker smith weaver miller carpenter potter tailor mason fisher hunter painter printer brewer
butcher cobbler glazier tanner cooper shepherd gardener clockmaker bookbinder saddler locksmith goldsmith
apothecary surgeon lawyer teacher musician ferryman beekeeper roofer hatter gravedigger""".split()

GOODS = """salt wool timber copper tin wheat barley honey wax silk linen cotton pepper cinnamon saffron tea
coffee sugar tobacco wine cider oil coal iron slate marble glass paper leather fur amethyst ginger rice
flax hemp rope tar candles herring cheese""".split()

MONTHS = "January February March April May June July August September October November December".split()

# kind: (what the key names, noun phrase with {key}, values, question words)
KINDS = {
    "code": (TOWNS, "gate code of", None, ["What is the gate code of", "Can you tell me the gate code of"]),
    "flag": (TOWNS, "flag of", COLOURS, ["What colour is the flag of", "Can you tell me the colour of the flag of"]),
    "feast": (TOWNS, "feast month of", MONTHS, ["What is the feast month of", "Can you tell me the feast month of"]),
    "home": (PEOPLE, "home of", TOWNS, ["Where is the home of", "Can you tell me the home of"]),
    "trade": (PEOPLE, "trade of", TRADES, ["What is the trade of", "Can you tell me the trade of"]),
    "cargo": (SHIPS, "cargo of the", GOODS, ["What is the cargo of the", "Can you tell me the cargo of the"]),
}

# Words in front of and behind the core of a fact; "" gives "The flag of ... is green."
LEADS = ["", "", "", "As we were told, ", "According to the ledger, ", "Everyone here knows that ", "Let it be noted that ",
         "The innkeeper said that ", "We learned that "]
TAILS = ["", "", "", ", so the people say", ", as the old book says", ", and this is certain", ", as I wrote in my notes"]

QUESTION_PREFIX = "\n\nQuestion: "
ANSWER_PREFIX = "\nAnswer:"

# Filler. Each {slot} is filled at random from SLOTS.
SLOTS = {
    "time": """in the morning|before noon|late in the day|after sunset|at first light|toward evening|around midday|
        in the small hours|after supper|before breakfast""",
    "weather": """rain|fog|snow|wind|sunshine|drizzle|hail|thunder|mist|frost""",
    "adj": """narrow|old|quiet|steep|muddy|broad|dusty|crooked|pleasant|lonely|crowded|cold|warm|dark|bright|
        friendly|strange|small|large|plain|handsome|broken|empty|windy|sunny""",
    "place": """valley|bridge|market|chapel|harbour|meadow|orchard|inn|mill|courtyard|square|forest|hill|field|
        garden|tower|stable|quarry|ford|well|barn|lane|library|cellar|kitchen|workshop""",
    "who": """a farmer|an old woman|a boy|two brothers|the guide|a pilgrim|the driver|a widow|three children|
        the keeper|a soldier|a stranger|the landlady|a student|the carrier|a trader|my companion|a traveller""",
    "thing": """a basket|a lantern|a wooden box|a map|a letter|a blanket|a kettle|a broken wheel|a bundle of straw|
        a pair of boots|a walking stick|a bag of apples|a clay jar|an iron key|a small drum|a coat|a ladder""",
    "food": """bread|soup|fish|onions|apples|stew|porridge|eggs|mushrooms|pears|beans|roast meat|dumplings|
        butter|milk|cabbage""",
    "did": """waited|rested|talked|slept|walked about|looked around|wrote letters|mended our clothes|counted our coins|
        listened|drew pictures|played cards|sang""",
    "feel": """tired|glad|hungry|curious|cheerful|thirsty|worried|content|surprised|grateful|bored|calm""",
    "num": """two|three|four|five|six|seven|eight|nine|ten|twelve|twenty|thirty""",
    "unit": """hours|days|weeks|years|miles""",
    "tree": """oak|pine|birch|willow|elm|chestnut|beech|ash|poplar|lime""",
    "animal": """dog|goat|horse|mule|cat|goose|hen|cow|donkey|pig|owl|fox""",
    "part": """roof|door|window|floor|wall|chimney|staircase|fence|gate|bell""",
    "mat": """stone|wood|brick|clay|straw|tiles|planks|moss""",
}
SLOTS = {k: [w.strip() for w in v.replace("\n", " ").split("|")] for k, v in SLOTS.items()}

FILLER = """We left the {adj} {place} {time} and followed the road for {num} miles.
The {weather} did not stop until we had passed the {place}.
{who} sold us {food} and would not take more than {num} coins.
There was {weather} over the {place}, and nobody wished to travel.
I sat by the {place} and {did} while the others {did}.
Near the {adj} {place} stood {num} {tree} trees, older than anyone could say.
{who} came along the {adj} lane carrying {thing}.
The {part} of the {place} was made of {mat} and had been repaired many times.
We were {feel}, but the {place} was still {num} miles away.
At the {place} we met {who}, who had walked for {num} {unit}.
My companion bought {thing} and afterwards regretted it.
The {animal} belonging to {who} followed us as far as the {place}.
{time}, the {weather} turned to {weather}, and we took shelter in a {place}.
Supper was {food} with {food}, and we ate it beside the fire.
It is said that the {place} was built by {who} in a single summer.
The path went down through {tree} woods and then up again to a {adj} {place}.
Nobody could explain why the {part} had been left open.
We {did} for {num} hours and spoke very little.
I was {feel} to see the {place} again after so many {unit}.
The {adj} {place} smelled of {food} and {mat}.
{who} told a long story about a {animal} and a {place}.
On the other side of the {place} the land is {adj} and {adj}.
A {animal} slept under the {tree}, and {who} watched over it.
We asked {who} about the way, and the answer was not very clear.
The bell of the {place} rang {num} times {time}.
Our guide was {feel} and wanted to rest near the {place}.
There is little to report except {weather} and more {weather}.
The rooms were {adj}, but the beds were clean and the {food} was good.
Along the wall somebody had planted {tree} trees and hung up {thing}.
I lost {thing} on the way and found {thing} instead.
For {num} {unit} the {place} had stood empty.
{who} laughed at our boots and gave us {food}.
The river was high because of the {weather}, and the ferry could not cross.
We crossed the {adj} {place} without seeing a single {animal}.
In the corner of the {place} lay {thing}, covered with {mat}.
The {part} needed paint, and the {part} would not close.
{time} we climbed the hill to look at the {place} below.
Some say the {weather} comes early here, and others say it comes late.
The children of the village {did} near the {adj} {place}.
I slept badly, since a {animal} made noise outside the {part}.
Without {thing} the journey would have been much harder.
We shared our {food} with {who} and parted as friends.
From the {part} one could see the {place} and the {tree} trees behind it.
The market was {adj}, with {food}, {food} and {food} on every table.
{who} had lived beside the {place} for {num} years and had never left it.
The wheel broke near a {place}, and it took {num} hours to mend.
It was a {adj} day, and everybody was {feel}.
Behind the {place} there is a {adj} path which few people use.
We counted {num} boats and {num} carts before the {weather} hid them.
The floor was of {mat}, and the {part} was of {mat}.
Perhaps we shall return to the {place} when the {weather} is over.
I wrote these lines {time}, feeling {feel} and a little {feel}.""".split("\n")

TITLES = ["A Journal of the Road", "Notes from a Long Journey", "The Chronicle of the Valley Road", "Letters of a Traveller",
          "A Book of Days"]


def filler_sentence(rng):
    out = rng.choice(FILLER)
    while "{" in out:
        a, b = out.index("{"), out.index("}")
        word = rng.choice(SLOTS[out[a + 1:b]])
        out = out[:a] + word + out[b + 1:]
    return out[0].upper() + out[1:]


def draw_facts(rng, n, shared=0.0, kinds=None):
    """n facts (kind, key, value). Keys are distinct, save that with probability `shared` a fact takes
    an earlier key with another kind. Values of one document are distinct where the pool allows."""
    facts, used, taken = [], set(), set()
    while len(facts) < n:
        kind = rng.choice(kinds or list(KINDS))
        pool, _, values, _ = KINDS[kind]
        key = rng.choice(pool)
        if facts and rng.random() < shared:
            old = [f for f in facts if KINDS[f[0]][0] is pool]
            if old:
                key = rng.choice(old)[1]
        elif any(f[1] == key for f in facts):
            continue
        if (kind, key) in used:
            continue
        for _ in range(8):
            value = rng.choice(values) if values else "%04d" % rng.randrange(10000)
            if value not in taken and value != key:
                break
        if value == key:
            continue
        used.add((kind, key))
        taken.add(value)
        facts.append((kind, key, value))
    return facts


def fact_sentence(rng, fact, plain=False):
    kind, key, value = fact
    lead, tail = ("", "") if plain else (rng.choice(LEADS), rng.choice(TAILS))
    core = "the %s %s is %s" % (KINDS[kind][1], key, value)
    text = lead + core + tail + "."
    return text[0].upper() + text[1:]


def question(rng, fact):
    return "%s %s?" % (rng.choice(KINDS[fact[0]][3]), fact[1])


def corpus(seed, n):
    """Text to train the tokenizer on. Names and values are stressed, so that each is one token."""
    rng = random.Random(seed)
    words = PEOPLE + TOWNS + SHIPS + COLOURS + TRADES + GOODS + MONTHS
    words += [w for v in SLOTS.values() for p in v for w in p.split()]
    for _ in range(n):
        yield " ".join(filler_sentence(rng) for _ in range(4)) + "\n\n"
        f = draw_facts(rng, 3)
        yield " ".join(fact_sentence(rng, x) for x in f)
        yield QUESTION_PREFIX + question(rng, f[0]) + ANSWER_PREFIX + " " + f[0][2]
        yield " " + " ".join(rng.choice(words) for _ in range(120))
        yield " " + " ".join("%04d" % rng.randrange(10000) for _ in range(10))


def chronicle(seed, n_words, n_facts):
    """The text of one long document with its facts at even depths, the first and the last tenth
    included, and the facts in the order of the text."""
    rng = random.Random(seed)
    facts = draw_facts(rng, n_facts)
    sents, words = [], 0
    while words < n_words:
        sents.append(filler_sentence(rng))
        words += len(sents[-1].split())
    for i, f in reversed(list(enumerate(facts))):
        depth = (i + rng.uniform(0.3, 0.7)) / n_facts
        sents.insert(int(depth * len(sents)), fact_sentence(rng, f))
    text, i = TITLES[seed % len(TITLES)] + "\n\n", 0
    while i < len(sents):
        n = rng.randint(3, 7)
        text += " ".join(sents[i:i + n]) + "\n\n"
        i += n
    return text.rstrip("\n") + "\n", facts


class Maker:
    """Builds training samples as token ids: (ids, weight of each target, length of the document)."""

    def __init__(self, tok, seed, pool=6000):
        self.tok, self.rng, self.cache = tok, random.Random(seed), {}
        rng = random.Random(seed + 1)
        sents = [filler_sentence(rng) for _ in range(pool)]
        self.filler = [(self.enc(s), self.enc(" " + s)) for s in sents]
        self.bos, self.eos = tok.token_to_id("<|bos|>"), tok.token_to_id("<|eos|>")

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

    def document(self, n_tokens, facts, plain=False, title=True):
        """Ids of a document of at most n_tokens with the facts in random places, and the offsets where
        its sentences end."""
        rng = self.rng
        fs = [fact_sentence(rng, f, plain) for f in facts]
        parts = [(self.enc_words(s), self.enc_words(" " + s)) for s in fs]
        size = sum(len(b) for _, b in parts) + 12 + len(facts)
        fill = []
        while True:
            s = rng.choice(self.filler)
            if size + len(s[1]) + 1 > n_tokens:
                break
            size += len(s[1])
            if not len(fill) % 5:
                size += 1
            fill.append(s)
        slots = sorted(rng.randrange(len(fill) + 1) for _ in parts)
        rng.shuffle(parts)
        seq, j = [], 0
        for i in range(len(fill) + 1):
            while j < len(parts) and slots[j] == i:
                seq.append(parts[j])
                j += 1
            if i < len(fill):
                seq.append(fill[i])
        ids, ends, start = [self.bos], [], True
        if title and rng.random() < 0.5:
            ids += self.enc(rng.choice(TITLES)) + self.enc("\n\n")
        left = rng.randint(3, 7)
        for a, b in seq:
            ids += a if start else b
            left -= 1
            start = left == 0 and len(ids) < n_tokens - 2
            if start:
                ids += self.enc("\n\n")
                left = rng.randint(3, 7)
            ends.append(len(ids))
        return ids, ends

    def pairs(self, n_tokens, n_facts):
        """Bare facts, "Marlow green Tobias baker", and then the same again in another order, with or
        without "is" in between, or asked with "Marlow?\\nAnswer: green"."""
        rng = self.rng
        mid = self.enc(" is") if rng.random() < 0.6 else []
        end = self.enc(".") if rng.random() < 0.6 else []
        ask = self.enc("?") + self.enc(ANSWER_PREFIX) if rng.random() < 0.7 else mid
        stop = [self.eos] if ask is not mid else end
        ids, again = [self.bos], []
        for k in rng.sample(PEOPLE + TOWNS + SHIPS, n_facts):
            k, v = self.enc(" " + k), self.enc(" " + rng.choice(COLOURS + TRADES + GOODS + MONTHS))
            ids += k + mid + v + end
            again.append(k + ask + v + stop)
        w = [0.0] * len(ids)
        while len(ids) < n_tokens:
            x = rng.choice(again)
            ids, w = ids + x, w + [0.0] * (len(x) - 1 - len(stop)) + [1.0] + [0.01] * len(stop)
        return ids[:n_tokens], w[:n_tokens], 1, []

    def sample(self, n_tokens, n_facts, n_questions, shared=0.0, plain=False, lm=0.1):
        """One training sample of exactly n_tokens (padded with EOS of weight 0)."""
        rng = self.rng
        # few kinds in one document: otherwise the kind alone tells the answer and keys are not learned
        kinds = rng.sample(list(KINDS), rng.choice([1, 1, 2, 3])) if rng.random() < 0.7 else None
        facts = draw_facts(rng, n_facts, shared, kinds)
        asked = [rng.choice(facts) for _ in range(n_questions - n_facts)] if n_questions > n_facts else []
        asked += rng.sample(facts, min(n_questions, n_facts))
        rng.shuffle(asked)
        tail, tw = [], []
        if plain and rng.random() < 0.6:  # the facts once more: copying behind a repeated key comes first
            for f in rng.sample(facts, len(facts)):
                a = self.enc_words(" " + fact_sentence(rng, f, True))
                n = len(self.enc(" " + f[2]))
                tail += a
                tw += [lm] * (len(a) - n - 1) + [1.0] * n + [lm]
        for f in asked:
            q = self.enc(QUESTION_PREFIX)[:-1] + self.enc_words(" " + question(rng, f)) + self.enc(ANSWER_PREFIX)
            a = self.enc(" " + f[2]) + [self.eos]
            tail += q + a
            tw += [lm * 0.2] * len(q) + [1.0] * len(a)
        ids, ends = self.document(n_tokens - len(tail), facts, plain, title=n_tokens > 300)
        if ids[-1] == self.enc("\n\n")[0] or len(ids) > n_tokens - len(tail):
            ids = ids[:-1]
        ends = [e for e in ends if e <= len(ids)]
        if not plain and rng.random() < 0.2 and len(ids) < n_tokens - len(tail):  # a file that ends in a newline
            tail[:1] = self.enc("\n\n\n")
            tw = [0.0] * (len(self.enc("\n\n\n")) - 1) + tw
        d = len(ids)
        w = [0.0] + [lm] * (d - 1) + tw
        ids = ids + tail
        over = len(ids) - n_tokens
        if over > 0:
            ids, w = ids[:n_tokens], w[:n_tokens]
        else:
            ids, w = ids + [self.eos] * -over, w + [0.0] * -over
        return ids, w, d, ends
