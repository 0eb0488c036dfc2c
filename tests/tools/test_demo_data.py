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
import demo_tracks  # noqa: E402
import demo_wordings as more  # noqa: E402
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

    def test_more_questions_leave_the_documents_as_they_are(self):
        tasks = list(suites.TASKS)
        few, all_ = (list(suites.generate(tasks, [600, 900], [2, 1], 5, ask)) for ask in (False, True))
        self.assertEqual([e["length"] for e in few[:4]], [600, 600, 900, 600])
        for one, more in zip(few, all_):
            self.assertEqual(one["document"], more["document"])
            self.assertEqual(one["questions"], more["questions"][:len(one["questions"])])
            self.assertEqual(len({q["q"] for q in more["questions"]}), len(more["questions"]))
            deep = one["depth"] is not None and one["task"] not in ("passkey", "niah_single")
            self.assertEqual(len(more["questions"]) > len(one["questions"]), deep, one["task"])
            for q in more["questions"][len(one["questions"]):]:
                places = [one["document"].index(a) for a in q["a"]]
                self.assertIn(q["depth"], range(10))
                if one["task"].startswith("niah_multivalue"):
                    self.assertEqual(places, sorted(places))

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

    def test_no_further_wording_is_one_of_the_evaluation(self):
        def low(texts):
            return {t.lower().replace("{k}", "the pass key") for t in texts}

        for name, kind in facts.KINDS.items():
            with self.subTest(kind=name):
                for what, held in (("say", kind.held_says), ("ask", kind.held_asks)):
                    texts = facts.wide(what, name).all()
                    self.assertGreater(len(texts), 100)
                    self.assertFalse(low(texts) & low(held))
                    for text in texts:
                        self.assertNotRegex(text.replace("{k}", "").replace("{v}", "").replace("{w}", ""), r"[\[\]{}|]")
                        if name != "pass":
                            self.assertIn("{k}", text)
                        if what == "say":
                            self.assertIn("{v}", text)
                            self.assertEqual("{w}" in text, facts.KINDS[name].value in ("pair", "people"))
        for name in facts.LINKS:
            self.assertFalse(low(facts.wide("link", name).all()) & low(facts.HELD_LINKS[name]))
        for name, (_, held) in facts.SPLIT.items():
            self.assertFalse(low(facts.wide("split", name).all()) & low(held))
        self.assertNotIn("can you name {} and {}?", low(more.BOTH))

    def test_assignments_of_training_share_no_name_word_or_question_with_the_evaluation(self):
        names, question = set(), set()
        for n in range(200):
            _, told, asked = suites.variable_tracking(4)(random.Random(n), 3)
            for _, text in told:
                names |= set(re.findall(r"VAR (\w+)", text))
            question |= {re.sub(r"VAR \w+", "{a}", q["q"]) for q in asked}
        self.assertLessEqual(names, demo_tracks.HELD_NAMES)
        self.assertFalse(question & set(demo_tracks.ASK))
        for n in range(500):
            told, asked = demo_tracks.draw(random.Random(n), 3, (1, 5))
            text = " ".join(told + [q for q, _ in asked])
            self.assertNotIn("VAR ", text)
            self.assertFalse(set(re.findall(r"\b[A-Z]{2}\b", text)) & demo_tracks.HELD_NAMES)

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
    def test_chains_of_assignments_give_the_asked_value_when_followed(self):
        for n in range(200):
            told, asked = demo_tracks.draw(random.Random(n), 2, (1, 4))
            value = {}
            for text in told:
                name = re.findall(r"\b[A-Z]{2,3}\b(?! [A-Z]{2,3}\b)", text)
                number = re.search(r"\d{6}", text)
                known = [x for x in name if x in value]
                for x in name:
                    value.setdefault(x, number.group() if number else value[known[0]])
            for question, want in asked:
                name = [x for x in re.findall(r"\b[A-Z]{2,3}\b", question) if x in value]
                self.assertEqual(value[name[-1]], want, question)

    def test_names_near_another_share_one_part_and_are_not_held_out(self):
        rng = random.Random(4)
        for what in TYPES:
            for _ in range(200):
                name = facts.draw_name(rng, what, False, 0.0)
                near = facts.near_name(rng, what, name)
                a, b = facts.parts(name), facts.parts(near)
                self.assertEqual((a[0] == b[0]) + (a[1] == b[1]), 1)
                self.assertFalse(facts.held(near.removeprefix("the ")))

    def test_answers_of_training_questions_are_in_the_document_or_not_stated(self):
        for form in ("train", "wide"):
            self.answers_of_training_questions(form)

    def answers_of_training_questions(self, form):
        rng = random.Random(3)
        recipe = demo_data.Recipe((6, 12), 10, form, shared=0.3, near=0.3, chains=(0, 3), split=0.4, single=1.0, hop=1.0,
                                  none=0.5, both=0.5)
        types = set()
        for _ in range(60):
            draw = demo_data.draw_document(rng, recipe)
            sentences = demo_data.sentences_of(rng, draw.facts, form, recipe.split)
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
