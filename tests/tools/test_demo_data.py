"""The demo model's documents and the suites of questions say what they claim to say."""

import pathlib
import random
import re
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "bench")]
import demo_data  # noqa: E402
import demo_facts as facts  # noqa: E402
import demo_words as words  # noqa: E402
import quality_suites as suites  # noqa: E402

BEFORE = r"(?:^|(?<=[.\n][ \n])|(?:%s))" % "|".join(facts.LEADS)
AFTER = r"(?:%s)?\." % "|".join(facts.TAILS)
TYPES = ("town", "person", "ship", "thing")


def statements(kind_name):
    """Every sentence that tells a fact of the kind, held out or not."""
    kind = facts.KINDS[kind_name]
    split = facts.SPLIT.get(kind_name, ([], []))
    return kind.says + kind.held_says + split[0] + split[1]


def told(document, kind_name, key):
    """How often a document tells a fact of the kind about the key."""
    places = set()
    for text in statements(kind_name):
        pattern = re.escape(text[:-1]).replace(r"\{v\}", r"[\w ]+").replace(r"\{w\}", r"[\w ]+")
        pattern = pattern.replace(r"\{k\}", re.escape(key))
        places |= {m.start() for m in re.finditer(BEFORE + pattern + AFTER, document, re.I)}
    return len(places)


class Suites(unittest.TestCase):
    def entries(self):
        for task, (make, _, _) in suites.TASKS.items():
            for n in range(10):
                rng = random.Random("%s %d" % (task, n))
                draw, sentences, questions = make(rng, n)
                taken = set().union(*draw.names.values()) if draw else set()
                yield task, draw, suites.write(rng, 700, sentences, taken), questions

    def test_the_same_seed_gives_the_same_suites_and_another_gives_others(self):
        tasks = list(suites.TASKS)
        one = list(suites.generate(tasks, [600], 3, 5))
        self.assertEqual(one, list(suites.generate(tasks, [600], 3, 5)))
        self.assertNotEqual(one, list(suites.generate(tasks, [600], 3, 6)))

    def test_every_answer_is_in_the_document_and_what_is_not_stated_is_not(self):
        for task, draw, document, questions in self.entries():
            self.assertTrue(questions)
            for question in questions:
                with self.subTest(task=task, question=question["q"]):
                    if question["a"] != [facts.NOT_STATED]:
                        for value in question["a"]:
                            self.assertIn(value, document)
                        continue
                    kind, key = self.asked(question["q"])
                    self.assertNotIn((kind, key), draw.used)
                    self.assertEqual(told(document, kind, key), 0)

    def asked(self, text):
        """The kind and the key of a held-out question."""
        for name, kind in facts.KINDS.items():
            for ask in kind.held_asks + kind.asks:
                found = re.fullmatch(re.escape(ask).replace(r"\{k\}", "(.+)"), text)
                if found:
                    return name, found.group(1)
        self.fail("no such question: " + text)

    def test_each_fact_is_told_once_or_as_two_halves(self):
        for task, draw, document, _ in self.entries():
            for kind, key, values in draw.facts if draw else []:
                with self.subTest(task=task, kind=kind, key=key):
                    self.assertIn(told(document, kind, key), (1, len(values)))

    def test_a_question_of_two_steps_does_not_name_the_key_in_between(self):
        for task, draw, _, questions in self.entries():
            if not task.startswith("two_hop"):
                continue
            for question in questions:
                ends = [(a, b) for a, b in draw.chains() if b[2] == question["a"] and a[1] in question["q"]]
                self.assertTrue(ends)
                for _, second in ends:
                    self.assertNotIn(second[1], question["q"])

    def test_the_place_of_the_asked_fact_is_the_depth(self):
        for n in range(10):
            entry = next(suites.generate(["niah_single"], [4000], 10, n))
            where = entry["document"].index(entry["questions"][0]["a"][0]) / len(entry["document"])
            self.assertAlmostEqual(where, (entry["depth"] + 0.5) / suites.DEPTHS, delta=0.07)

    def test_lengths_are_as_asked(self):
        for length in (512, 2048):
            for entry in suites.generate(list(suites.TASKS), [length], 1, 1):
                self.assertAlmostEqual(suites.n_tokens(entry["document"]), length, delta=40)


class HeldOut(unittest.TestCase):
    def test_no_sentence_or_question_of_the_evaluation_is_used_in_training(self):
        for name, kind in facts.KINDS.items():
            with self.subTest(kind=name):
                self.assertTrue(kind.held_says and kind.held_asks)
                self.assertFalse(set(kind.held_says) & set(kind.says))
                self.assertFalse(set(kind.held_asks) & set(kind.asks))
        for train, held in facts.SPLIT.values():
            self.assertFalse(set(train) & set(held))
        for kind in facts.LINKS:
            self.assertFalse(set(facts.LINKS[kind]) & set(facts.HELD_LINKS[kind]))
        self.assertFalse(set(words.HELD_FILLER) & set(words.FILLER))
        self.assertFalse(set(words.HELD_MENTIONS) & set(words.MENTIONS))

    def test_names_and_numbers_of_training_and_of_evaluation_are_disjoint(self):
        rng = random.Random(1)
        for what in TYPES:
            train = {facts.draw_name(rng, what) for _ in range(3000)}
            held = {facts.draw_name(rng, what, True, 0.0) for _ in range(300)}
            self.assertFalse(train & held, what)
        for what in ("code", "long"):
            train = {facts.draw_value(rng, what)[0] for _ in range(3000)}
            held = {facts.draw_value(rng, what, True, 0.0)[0] for _ in range(300)}
            self.assertFalse(train & held, what)

    def test_near_names_share_one_part(self):
        rng = random.Random(2)
        for what in TYPES:
            for _ in range(20):
                name = facts.draw_name(rng, what, True, 0.0)
                a, b = facts.parts(name), facts.parts(facts.near_name(rng, what, name, True))
                self.assertEqual((a[0] == b[0]) + (a[1] == b[1]), 1)


class Training(unittest.TestCase):
    def test_answers_of_training_questions_are_in_the_document_or_not_stated(self):
        rng = random.Random(3)
        recipe = demo_data.Recipe((6, 12), 10, shared=0.3, near=0.3, chains=(0, 3), split=0.4, single=1.0, hop=1.0,
                                  none=0.5, both=0.5)
        types = set()
        for _ in range(60):
            draw = demo_data.draw_document(rng, recipe)
            sentences = demo_data.sentences_of(rng, draw.facts, "train", recipe.split)
            document = " ".join(sentences)
            for _ in range(10):
                what, _, values = demo_data.draw_question(rng, recipe, draw)
                types.add(what)
                if what == "none":
                    self.assertEqual(values, [facts.NOT_STATED])
                else:
                    places = [document.index(v) for v in values]
                    if what == "pair":
                        self.assertLess(*places)
        self.assertEqual(types, {"single", "pair", "hop", "none", "both"})


if __name__ == "__main__":
    unittest.main()
