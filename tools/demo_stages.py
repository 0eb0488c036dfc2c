"""The curriculum of the demo model: stages of documents that grow in length, facts and kinds of questions."""

from demo_data import Recipe
from demo_facts import CLASSIC, KINDS


class Stage:
    """`lengths` are shares of the tokens, `recipes` shares of the documents."""

    def __init__(self, share, lengths, recipes, reach=0, bare=0.0, recall=0.0, squeeze=0.0, lm=0.1):
        self.share, self.lengths, self.recipes = share, lengths, recipes
        self.reach, self.bare, self.recall, self.squeeze, self.lm = reach, bare, recall, squeeze, lm


TOLD_ANYWHERE = [k for k in KINDS if k not in ("pass", "magic")]
PLAIN = Recipe((3, 4), 3, "plain", kinds=CLASSIC, classic=0.7, shared=0.0, near=0.0)
PLAIN_MORE = Recipe((4, 6), 5, "plain", classic=0.5, shared=0.1)
VARIED = Recipe((4, 8), 8, "wide", classic=0.3, shared=0.15, near=0.1, split=0.2, single=1.0, none=0.05)
HOPS = Recipe((4, 7), 8, "wide", classic=0.3, shared=0.2, chains=(2, 3), alike=True, single=0.4, hop=1.0)
MORE_HOPS = Recipe((6, 14), 14, "wide", classic=0.25, shared=0.2, near=0.15, chains=(3, 6), alike=True, single=0.4, hop=1.0)
ALL_HOPS = Recipe((8, 16), 14, "wide", classic=0.25, few_kinds=0.25, shared=0.3, near=0.3, chains=(3, 6), split=0.2,
                  mentions=0.1, kinds=TOLD_ANYWHERE, single=0.6, hop=1.0, none=0.2)
MIXED = Recipe((6, 14), 14, "wide", classic=0.25, shared=0.3, near=0.2, chains=(0, 3), split=0.3, mentions=0.1,
               single=1.0, hop=0.6, none=0.15, both=0.15)
DENSE = Recipe((8, 24), 24, "wide", classic=0.2, shared=0.3, near=0.3, chains=(1, 5), split=0.3, mentions=0.15,
               single=1.0, hop=0.7, none=0.3, both=0.15)
LONG = Recipe((8, 32), 36, "wide", classic=0.2, few_kinds=0.4, shared=0.3, near=0.3, chains=(1, 6), split=0.3, mentions=0.15,
              single=1.0, hop=0.7, none=0.3, both=0.15)
CONFUSE = Recipe((6, 12), 14, "wide", classic=0.05, few_kinds=1.0, shared=0.1, near=0.8, mentions=0.1, single=1.0, none=0.3,
                 both=0.3)
MULTI = Recipe((3, 7), 9, "wide", classic=0.2, kinds=["market", "child"], few_kinds=0.7, shared=0.1, near=0.2, split=0.9,
               mentions=0.1, single=1.0, none=0.15)
FEW = Recipe((1, 3), 3, "wide", classic=0.2, near=0.2, mentions=0.1, split=0.2, single=1.0, none=0.2)
TRACK = Recipe((1, 3), 2, "wide", classic=0.3, mentions=0.05, tracks=(1, 2), single=1.0)
MORE_TRACKS = Recipe((1, 6), 4, "wide", classic=0.3, mentions=0.05, tracks=(2, 4), single=1.0, none=0.1)

STAGES = [
    Stage(0.03, {128: 1}, {PLAIN: 1}, bare=0.2),
    Stage(0.05, {256: 1}, {PLAIN_MORE: 1}, 1024, bare=0.1),
    Stage(0.12, {256: 2, 512: 1}, {VARIED: 4, HOPS: 4, MULTI: 1, TRACK: 1}, 4096, recall=0.03),
    Stage(0.20, {512: 2, 1024: 1}, {MIXED: 4, MORE_HOPS: 3, ALL_HOPS: 2, CONFUSE: 1, MULTI: 1, TRACK: 1, MORE_TRACKS: 1}, 16384,
          recall=0.02),
    Stage(0.25, {1024: 3, 2048: 1}, {DENSE: 4, MORE_HOPS: 2, ALL_HOPS: 6, CONFUSE: 1.5, MULTI: 1.5, FEW: 0.5,
          MORE_TRACKS: 4}, 16384),
    Stage(0.35, {1024: 5, 2048: 5, 4096: 2, 8192: 2}, {DENSE: 3, LONG: 3, MORE_HOPS: 1, ALL_HOPS: 6, CONFUSE: 1.5, MULTI: 1.5, FEW: 1,
          MORE_TRACKS: 4}, 16384, squeeze=0.2),
]
EARLIER = 0.2  # so often a step is from an earlier stage, so that nothing is forgotten


def at(frac):
    """The index of the stage at this part of the run."""
    end, total = 0.0, sum(s.share for s in STAGES)
    for i, s in enumerate(STAGES):
        end += s.share / total
        if frac < end:
            return i
    return len(STAGES) - 1


def choose(rng, frac):
    """The stage of a step."""
    i = at(frac)
    if i and rng.random() < EARLIER:
        i = rng.randrange(max(0, i - 2), i)
    return STAGES[i]
