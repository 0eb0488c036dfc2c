"""semcache bench quality against the daemon, with the demo model's sample document as a suite."""

import json
import os
import pathlib
import subprocess
import tempfile
import unittest

import harness as h

DEMO = h.SOURCE / "models" / "demo"
SEMCACHE = os.environ.get("SEMCACHE") or h.skip_all("SEMCACHE does not name the client's binary")


class Quality(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = h.Daemon(DEMO)
        cls.addClassCleanup(cls.daemon.kill)
        folder = tempfile.TemporaryDirectory(prefix="sc-e2e-quality-")
        cls.addClassCleanup(folder.cleanup)
        questions = json.loads((DEMO / "sample" / "questions.json").read_text())
        questions = [{"q": q["q"], "a": [q["a"]]} for q in questions[: int(os.environ.get("SC_E2E_QUESTIONS", "1000"))]]
        cls.n = len(questions)
        cls.suite = pathlib.Path(folder.name, "sample.jsonl")
        cls.suite.write_text(json.dumps({"id": "sample", "task": "sample", "length": 6144, "depth": None,
                                         "document": (DEMO / "sample" / "document.txt").read_text(), "questions": questions}) + "\n")

    def bench(self, *args):
        done = subprocess.run(
            [SEMCACHE, "bench", "quality", "--server", self.daemon.target, "--suite", self.suite, "--prompt-format",
             DEMO / "prompt_format.json", "--json", *args], capture_output=True, text=True, timeout=600, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_the_exact_cache_does_not_differ_from_itself(self):
        total = self.bench("--kv", "exact", "--against-exact")["total"]
        self.assertEqual((total["asked"], total["right"], total["exact"]["both_right"]), (self.n,) * 3)
        self.assertEqual(total["kept"]["share"], 1)
        self.assertEqual(total["exact"]["agreement"], 1)
        self.assertLess(total["exact"]["kl"], 1e-6)
        self.assertEqual(total["kept"]["mean_bytes"], total["exact"]["mean_bytes"])

    def test_compression_keeps_a_share_and_leads_a_little_away(self):
        result = self.bench("--kv", "compressed", "--against-exact")
        total = result["total"]
        self.assertEqual((total["asked"], total["right"]), (self.n, self.n), result["failures"])
        self.assertLess(total["kept"]["share"], 0.4)
        self.assertLess(total["kept"]["mean_bytes"], 0.5 * total["exact"]["mean_bytes"])
        self.assertEqual(total["exact"]["agreement"], 1)
        self.assertGreater(total["exact"]["kl"], 0)
        self.assertLess(total["exact"]["kl"], 0.1)
        # The document is read once: of all prompts, only the first is new (and some tokens at its end).
        self.assertGreater(total["cached_tokens"], (1 - 1.5 / self.n) * total["prompt_tokens"])

    def test_another_answer_is_followed_along_the_exact_one(self):
        result = self.bench("--kv", "compressed", "--budget", "per_chunk", "--target-ratio", "0.02", "--window", "16", "--sinks",
                            "0", "--bias", "none", "--exact-layers", "none", "--against-exact")
        total = result["total"]
        self.assertLess(total["right"], self.n)
        exact = self.bench("--kv", "exact", "--against-exact")["total"]["exact"]
        self.assertEqual(total["exact"]["tokens"], exact["tokens"])
        self.assertLess(total["exact"]["agreement"], 1)
        self.assertGreater(total["exact"]["kl"], 0.1)


if __name__ == "__main__":
    h.main()
