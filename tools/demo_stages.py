"""The curriculum of the demo model, and what is measured while it trains."""

from demo_data import Recipe
from demo_facts import CLASSIC


class Stage:
    def __init__(self, share, lengths, recipes, tokens=4096, reach=0, bare=0.0, recall=0.0, squeeze=0.0, lm=0.1,
                 probes="short"):
        self.share, self.lengths, self.recipes, self.tokens = share, lengths, recipes, tokens
        self.reach, self.bare, self.recall, self.squeeze, self.lm, self.probes = reach, bare, recall, squeeze, lm, probes


PLAIN = Recipe((3, 4), 3, "plain", kinds=CLASSIC, classic=0.7, shared=0.0, near=0.0)
PLAIN_MORE = Recipe((4, 6), 5, "plain", classic=0.5, shared=0.1)
VARIED = Recipe((4, 8), 8, classic=0.4, shared=0.15, near=0.1, split=0.2, single=1.0)
HOPS = Recipe((4, 7), 8, shared=0.2, chains=(2, 3), alike=True, single=0.4, hop=1.0)
MORE_HOPS = Recipe((6, 12), 14, shared=0.2, near=0.1, chains=(3, 5), alike=True, single=0.4, hop=1.0)
MIXED = Recipe((6, 14), 12, shared=0.3, near=0.2, chains=(0, 3), split=0.3, mentions=0.1, single=1.0, hop=0.6, both=0.15)
DENSE = Recipe((8, 24), 22, shared=0.3, near=0.25, chains=(1, 5), split=0.3, mentions=0.15, single=1.0, hop=0.7,
               none=0.2, both=0.15)
LONG = Recipe((6, 20), 20, shared=0.3, near=0.25, chains=(1, 4), split=0.3, mentions=0.15, single=1.0, hop=0.7,
              none=0.2, both=0.15)

STAGES = [
    Stage(0.03, {128: 1}, [PLAIN], 2048, bare=0.2),
    Stage(0.05, {224: 1}, [PLAIN_MORE], 2688, 1024, bare=0.1),
    Stage(0.20, {256: 1}, [VARIED, HOPS], 4096, 4096, recall=0.05),
    Stage(0.28, {512: 1}, [MIXED, MIXED, MORE_HOPS], 4096, 16384, recall=0.03),
    Stage(0.24, {1024: 1}, [DENSE, DENSE, MORE_HOPS], 4096, 16384),
    Stage(0.20, {1024: 10, 2048: 6, 4096: 3, 6144: 1}, [DENSE, LONG, LONG, MORE_HOPS], 4096, 16384, squeeze=0.2, probes="long"),
]


def held(n_facts, n_questions, **types):
    return Recipe((n_facts, n_facts), n_questions, "held", True, classic=0.0, few_kinds=0.3, shared=0.3, near=0.3,
                  chains=(3, 3) if n_facts > 6 else (1, 1), split=0.3, mentions=0.1, **types)


PROBES = {
    "short": [("seen", 256, Recipe((6, 6), 6)), ("held", 256, held(6, 6, single=1)),
              ("hops", 256, HOPS), ("held512", 512, held(12, 12, single=1, hop=1, none=0.4, both=0.4))],
    "long": [("held512", 512, held(12, 12, single=1, hop=1, none=0.4, both=0.4)),
             ("held2k", 2048, held(12, 16, single=1, hop=1, none=0.4, both=0.4))],
}
