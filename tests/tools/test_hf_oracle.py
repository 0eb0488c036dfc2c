"""The daemon answers token for token as docs/compression.md does on Hugging Face transformers, all in float32.

SEMANTICACHED and SEMCACHE name the binaries. The oracle runs in the interpreter that SC_TRANSFORMERS_PYTHON names, or
in this one; exit status 77, skipped, where that has no torch and transformers.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

SOURCE = pathlib.Path(__file__).resolve().parents[2]
DEMO = SOURCE / "models" / "demo"
PYTHON = os.environ.get("SC_TRANSFORMERS_PYTHON", sys.executable)
RATIOS = [None, 0.5, 0.25, 0.125]
N_QUESTIONS = int(os.environ.get("SC_ORACLE_QUESTIONS", "3"))
MAX_TOKENS = 12


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


class Oracle(unittest.TestCase):
    def setUp(self):
        self.log = tempfile.NamedTemporaryFile("w+", suffix=".log")
        types = [a for s in ("engine.weight_dtype=f32", "engine.math=f32", "kv.dtype=f32") for a in ("--set", s)]
        self.process = subprocess.Popen(
            [os.environ["SEMANTICACHED"], "--model", DEMO, "--listen", "127.0.0.1:0", "--tensor-parallel", "1", *types],
            stdout=self.log, stderr=self.log)
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.send_signal, signal.SIGTERM)
        for _ in range(1200):
            text = pathlib.Path(self.log.name).read_text()
            if " ready model=" in text:
                break
            self.assertIsNone(self.process.poll(), text)
            time.sleep(0.05)
        self.server = "127.0.0.1:" + text.split("port=")[1].split()[0]

    def ask(self, prompt, ratio):
        kv = ["--kv", "exact"] if ratio is None else ["--kv", "compressed", "--target-ratio", str(ratio)]
        done = subprocess.run(
            [os.environ["SEMCACHE"], "generate", "--server", self.server, "--prompt-file", "-", "--json", "--temperature", "0",
             "--max-tokens", str(MAX_TOKENS), *kv], input=prompt, capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_tokens_and_entries_are_those_of_the_specification(self):
        form = json.loads((DEMO / "prompt_format.json").read_text())
        document = (DEMO / "sample" / "document.txt").read_text().rstrip("\n")
        questions = json.loads((DEMO / "sample" / "questions.json").read_text())[:N_QUESTIONS]
        requests = []
        for i, q in enumerate(questions):  # a whole document of some 6,000 tokens, and beginnings
            end = len(document) if i == 0 else document.rindex("\n\n", 0, len(document) * i // len(questions))
            prompt = document[:end] + form["question_prefix"] + q["q"] + form["answer_prefix"]
            requests += [{"prompt": prompt, "max_tokens": MAX_TOKENS, "ratio": r} for r in (RATIOS if i == 0 else RATIOS[1:])]
        done = subprocess.run([PYTHON, SOURCE / "tools" / "hf_oracle.py", "--model", DEMO], capture_output=True, text=True,
                              input="".join(json.dumps(r) + "\n" for r in requests), check=False)
        self.assertEqual(done.returncode, 0, done.stderr[-2000:])
        for request, line in zip(requests, done.stdout.splitlines()):
            with self.subTest(tokens=len(request["prompt"]), ratio=request["ratio"]):
                want, got = json.loads(line), self.ask(request["prompt"], request["ratio"])
                self.assertEqual(got["token_ids"], want["token_ids"])
                receipt = got["receipt"]
                share = receipt["physical_entries"] / receipt["exact_entries"]
                print(f"ratio {request['ratio']}: {got['token_ids']}, kept {share:.4f}, oracle "
                      f"{want['physical_entries'] / want['exact_entries']:.4f}")
                # A distance at the threshold falls to either side of it in another precision.
                self.assertAlmostEqual(share, want["physical_entries"] / want["exact_entries"], delta=0.002)


if __name__ == "__main__":
    probe = subprocess.run([PYTHON, "-c", "import torch, transformers"], capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        skip(f"{PYTHON} has no torch and transformers; SC_TRANSFORMERS_PYTHON may name one that has")
    unittest.main()
