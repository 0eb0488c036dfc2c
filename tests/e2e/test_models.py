"""Greedy tokens of real and random models against their references, on 1, 2 and 4 ranks."""

import json
import unittest

import harness as h
from harness import ask, compressed, exact, prompt_ids

STORIES = h.FIXTURES / "stories260K" / "hf"
PRECISE = ("--weight-dtype", "f32", "--kv-dtype", "f32")


class Ranks(unittest.TestCase):
    def serve(self, model, ranks, args=PRECISE):
        daemon = h.Daemon(model, ("--tensor-parallel", str(ranks), *args))
        self.addCleanup(daemon.kill)
        self.assertEqual(daemon.client.info().tensor_parallel, ranks)
        return daemon

    def end(self, daemon):
        h.wait_until(lambda: h.is_idle(daemon.client), "idle, all pages free", 10)
        self.assertEqual(daemon.stop(), 0, daemon.tail())

    def greedy(self, daemon, ids, count, kv):
        answer = daemon.client.generate(
            ask(ids=ids, kv=kv, sampling={"max_tokens": count, "repetition_penalty": 1.0}),
            timeout=600,
        )
        return list(answer.outputs[0].token_ids), answer

    @unittest.skipUnless(STORIES.is_dir(), "the stories260K fixture is not beside the checkout")
    def test_stories_tells_the_story_of_the_reference(self):
        ids = json.loads((STORIES / "expected_greedy.json").read_text())["ids"]
        for ranks in (1, 2, 4):
            with self.subTest(ranks=ranks):
                daemon = self.serve(STORIES, ranks)
                got, _ = self.greedy(daemon, ids[:1], len(ids) - 1, exact())
                self.assertEqual(got, ids[1:])
                # The same in the middle of the story: reading equals having written.
                got, _ = self.greedy(daemon, ids[:60], len(ids) - 60, exact())
                self.assertEqual(got, ids[60:])
                self.end(daemon)

    @unittest.skipUnless(STORIES.is_dir(), "the stories260K fixture is not beside the checkout")
    def test_stories_with_the_default_types_tells_a_story(self):
        daemon = self.serve(STORIES, 1, args=())
        answer = daemon.client.generate(ask(text="Once upon a time", kv=exact()))
        self.assertRegex(answer.outputs[0].text.decode(), r"^,? there was|^ ?[A-Za-z, .]+$")
        self.end(daemon)

    def test_every_golden_model_continues_as_transformers_does(self):
        for folder in sorted(h.GOLDEN.iterdir()):
            if not (folder / "golden.json").exists():
                continue
            golden = json.loads((folder / "golden.json").read_text())
            prompt = golden["prompts"][golden["greedy"]["prompt"]]["ids"]
            want = golden["greedy"]["ids"]
            for ranks in (1, 2, 4):
                with self.subTest(model=folder.name, ranks=ranks):
                    daemon = self.serve(folder, ranks)
                    got, _ = self.greedy(daemon, prompt, len(want), exact())
                    self.assertEqual(got, want)
                    self.end(daemon)

    def test_ranks_agree_on_what_is_merged(self):
        """Cores come from integer sums: as many, and here the same tokens, on any ranks."""
        ids, seen = prompt_ids(4, 400), []
        for ranks in (1, 2, 4):
            daemon = self.serve(h.GOLDEN / "llama31", ranks)
            got, answer = self.greedy(daemon, ids, 24, compressed())
            self.assertLess(answer.receipt.physical_entries, answer.receipt.exact_entries)
            seen.append((got, answer.receipt.cores, answer.receipt.physical_entries))
            self.end(daemon)
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(seen[0], seen[2])

    def test_a_seed_draws_the_same_tokens_on_any_ranks(self):
        """On the backend, and by the sampler, which penalties need."""
        ids, seen = prompt_ids(6, 40), []
        draws = {"max_tokens": 32, "temperature": 1.5, "seed": 11}
        for ranks in (1, 2, 4):
            daemon = self.serve(h.GOLDEN / "llama31", ranks)
            answers = [
                daemon.client.generate(ask(ids=ids, kv=exact(), sampling={**draws, **more}))
                for more in ({}, {"top_p": 0.8}, {"top_k": 7}, {"repetition_penalty": 1.2})
            ]
            seen.append([list(a.outputs[0].token_ids) for a in answers])
            self.end(daemon)
        self.assertEqual(len(set(map(tuple, seen[0]))), 4)
        self.assertEqual(seen[0], seen[1])
        self.assertEqual(seen[0], seen[2])


if __name__ == "__main__":
    h.main()
