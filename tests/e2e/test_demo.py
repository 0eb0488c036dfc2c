"""The shipped demo model answers its sample document's questions, exact and compressed."""

import json
import os
import unittest

import harness as h
from harness import ask, exact

DEMO = h.SOURCE / "models" / "demo"


def defaults():
    return h.common.KvOptions(mode=h.common.KV_MODE_COMPRESSED)


class Demo(unittest.TestCase):
    def setUp(self):
        self.daemon = h.Daemon(DEMO, ("--tensor-parallel", "2"))
        self.addCleanup(self.daemon.kill)
        form = json.loads((DEMO / "prompt_format.json").read_text())
        self.document = (DEMO / "sample" / "document.txt").read_text().rstrip("\n")
        self.questions = json.loads((DEMO / "sample" / "questions.json").read_text())
        self.form = form

    def answer(self, question, kv):
        prompt = self.document + self.form["question_prefix"] + question + self.form["answer_prefix"]
        reply = self.daemon.client.generate(
            ask(text=prompt, kv=kv, sampling={"max_tokens": 8, "stop": self.form["stop"]}),
            timeout=600,
        )
        return reply.outputs[0].text.decode().strip(), reply.receipt

    def test_every_sample_question_is_answered_in_both_modes(self):
        self.assertGreaterEqual(len(self.questions), 5)
        exact_layers = len(json.loads((DEMO / "semanticache-calibration.json").read_text()).get("exact_layers", []))
        for entry in self.questions[: int(os.environ.get("SC_E2E_QUESTIONS", "1000"))]:
            with self.subTest(question=entry["q"]):
                text, receipt = self.answer(entry["q"], exact())
                self.assertEqual(text, entry["a"])
                self.assertEqual(receipt.physical_entries, receipt.exact_entries)
                text, receipt = self.answer(entry["q"], defaults())
                self.assertEqual(text, entry["a"])
                self.assertLess(receipt.physical_entries, 0.4 * receipt.exact_entries)
                # At the peak: of the layers that are compressed.
                whole = exact_layers * receipt.logical_tokens
                self.assertLess(receipt.peak_entries - whole, 0.4 * (receipt.exact_entries - whole))
                self.assertEqual(
                    receipt.physical_entries - receipt.cores,
                    receipt.exact_entries - receipt.compressed_tokens,
                )


if __name__ == "__main__":
    h.main()
