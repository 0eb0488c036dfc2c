#!/usr/bin/env python3
"""semcache and the examples against a real daemon with a tiny model.

SEMANTICACHED, SEMCACHE and EXAMPLE_GENERATE name the binaries. Exit status 77: skipped.
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

sys.dont_write_bytecode = True
SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests" / "e2e"))
import harness  # noqa: E402  (exits 77 when python3-grpcio is missing)

SEMCACHE = os.environ["SEMCACHE"]
EXAMPLE = os.environ["EXAMPLE_GENERATE"]
PATIENCE_S = harness.PATIENCE_S
TEXT = "The quick brown fox jumps over the lazy dog. " * 20
SMALL_EPOCH = ["--window", "32", "--epoch", "64", "--sinks", "4"]


class Semcache(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="semcache-test-")
        model = harness.model_with_context(cls.folder.name, harness.GOLDEN / "llama31", 4096)
        cls.daemon = harness.Daemon(model, ["--tensor-parallel", "2"])
        cls.document = pathlib.Path(cls.folder.name, "document.txt")
        cls.document.write_text(TEXT + "\n")

    @classmethod
    def tearDownClass(cls):
        cls.daemon.stop()
        cls.folder.cleanup()

    def command(self, name, *args):
        return [SEMCACHE, *name.split(), "--server", self.daemon.target, *args]

    def run_semcache(self, name, *args, status=0, text=True, **kwargs):
        done = subprocess.run(
            self.command(name, *args), capture_output=True, text=text, timeout=PATIENCE_S, **kwargs
        )
        self.assertEqual(done.returncode, status, done.stderr)
        return done

    def json(self, name, *args, **kwargs):
        return json.loads(self.run_semcache(name, "--json", *args, **kwargs).stdout)

    def test_info_tells_of_server_and_model(self):
        info = self.json("info")
        self.assertEqual(info["server"]["state"], "ready")
        self.assertEqual(info["server"]["tensor_parallel"], 2)
        self.assertEqual(info["model"]["max_context"], 4096)
        text = self.run_semcache("info").stdout
        self.assertIn("2 tensor-parallel ranks", text)

    def test_no_proxy_stands_between(self):
        proxies = {name: "http://127.0.0.1:9" for name in ("http_proxy", "grpc_proxy", "https_proxy")}
        self.run_semcache("info", env={**os.environ, **proxies, "no_proxy": "", "no_grpc_proxy": ""})

    def test_tokenize_and_detokenize_are_inverse(self):
        ids = self.run_semcache("tokenize", "--text", "Hello fox", "--add-special-tokens", "no").stdout.strip()
        self.assertRegex(ids, r"^[0-9]+(,[0-9]+)*$")
        back = self.run_semcache("tokenize", "--detokenize", "--token-ids", ids).stdout
        self.assertEqual(back, "Hello fox")
        self.assertEqual(self.json("tokenize", "--text", "Hello fox", "--add-special-tokens", "no")["token_ids"],
                         [int(i) for i in ids.split(",")])

    def test_streamed_text_is_the_text_of_the_json(self):
        args = ["--prompt", TEXT, "--max-tokens", "12", "--temperature", "0", "--ignore-eos"]
        reply = self.json("generate", *args)
        self.assertEqual(len(reply["token_ids"]), 12)
        self.assertEqual(reply["usage"]["completion_tokens"], 12)
        self.assertEqual(reply["finish_reason"], "length")
        done = self.run_semcache("generate", *args, text=False)
        self.assertEqual(done.stdout.decode(errors="replace"), reply["text"])
        self.assertIn(b"KV cache", done.stderr)

    def test_prompt_may_come_from_stdin_and_as_ids(self):
        args = ["--max-tokens", "4", "--temperature", "0", "--ignore-eos"]
        one = self.json("generate", "--prompt", TEXT, *args)
        two = self.json("generate", "--prompt-file", "-", *args, input=TEXT)
        ids = self.run_semcache("tokenize", "--text", TEXT).stdout.strip()
        three = self.json("generate", "--token-ids", ids, *args)
        self.assertEqual(one["token_ids"], two["token_ids"])
        self.assertEqual(one["token_ids"], three["token_ids"])

    def test_compressed_keeps_fewer_entries_than_exact(self):
        args = ["--document", str(self.document), "--max-tokens", "4", "--ignore-eos", "What jumps?"]
        exact = self.json("ask", "--kv", "exact", *args)
        small = self.json("ask", "--kv", "compressed", *SMALL_EPOCH, *args)
        self.assertEqual(exact["receipt"]["mode"], "exact")
        self.assertEqual(exact["receipt"]["physical_entries"], exact["receipt"]["exact_entries"])
        self.assertEqual(small["receipt"]["mode"], "compressed")
        self.assertLess(small["receipt"]["physical_entries"], small["receipt"]["exact_entries"])
        self.assertGreater(small["kv_bytes"], 0)

    def test_logprobs_come_one_for_each_token(self):
        reply = self.json("generate", "--prompt", "fox", "--max-tokens", "3", "--ignore-eos", "--logprobs", "2")
        self.assertEqual([l["token_id"] for l in reply["logprobs"]], reply["token_ids"])
        self.assertEqual(len(reply["logprobs"][0]["top"]), 2)

    def test_inspect_shows_chunks_in_three_forms(self):
        args = [str(self.document), *SMALL_EPOCH]
        text = self.run_semcache("inspect", *args).stdout
        self.assertRegex(text, r"chunk of \d+ -> \d+ cores")
        reply = self.json("inspect", *args)
        chunk = reply["chunks"][0]
        for layer in chunk["layers"]:
            self.assertEqual(len(layer["labels"]), chunk["n_tokens"])
            self.assertEqual(max(layer["labels"]) + 1, layer["n_cores"])
        page = pathlib.Path(self.folder.name, "cores.html")
        self.run_semcache("inspect", *args, "--html", str(page))
        self.assertIn('"n_cores":', page.read_text())

    def test_inspect_says_what_is_cached_and_why_not_more(self):
        document = pathlib.Path(self.folder.name, "looked-up.txt")
        document.write_text("A prompt that nobody has sent before. " * 4)
        line = lambda *args: self.run_semcache("inspect", str(document), *args).stdout.splitlines()[-1]  # noqa: E731
        self.assertRegex(line("--kv", "exact"), r"cached: 0 of \d+ tokens; nobody is known to have read on from token")
        self.run_semcache("generate", "--prompt", document.read_text(), "--kv", "exact", "--max-tokens", "1")
        self.assertRegex(line("--kv", "exact"), r"cached: (\d+) of \d+ tokens; the last one is always read")
        self.assertRegex(line(*SMALL_EPOCH), r"cached: 0 of \d+ tokens; recipe \w+ has \d+, this is recipe")
        lookup = self.json("inspect", str(document), *SMALL_EPOCH)["lookup"]
        short = pathlib.Path(self.folder.name, "short.txt")
        short.write_text("Too short to be compressed.")
        shown = self.run_semcache("inspect", str(short)).stdout.splitlines()
        self.assertRegex(shown[-3], "^layer 0 of [0-9]+: all [0-9]+ tokens are exact$")
        self.assertTrue(shown[-1].startswith("cached: 0 of "), shown)
        self.assertEqual(lookup["miss"], "other_recipe")
        document.write_text(document.read_text()[:100] + " No. And then something else.")
        self.assertRegex(line("--kv", "exact"), r"cached: \d\d+ of \d+ tokens; what is held goes on otherwise at token \d\d+: \d+.*, here \d+")

    def test_server_errors_have_status_and_message(self):
        done = self.run_semcache("generate", "--prompt", "a", "--max-tokens", "100000", status=1)
        self.assertRegex(done.stderr, r"semcache: [A-Z_]+: .*100000")
        self.assertEqual(done.stdout, "")

    def test_interrupt_cancels_and_exits_130(self):
        process = subprocess.Popen(
            self.command("generate", "--prompt", TEXT, "--max-tokens", "3000", "--ignore-eos"),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            process.stdout.read(1)  # it runs
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
        self.assertEqual(process.returncode, 130)
        self.assertIn(b"interrupted", err)
        end = time.monotonic() + PATIENCE_S
        while self.json("info")["server"]["running"] > 0:
            self.assertLess(time.monotonic(), end, "the server still runs the request")
            time.sleep(0.05)

    def test_a_deadline_ends_the_request_on_the_server_too(self):
        result = self.json("bench serve", "--streams", "4", "--requests", "12", "--prompt-len", "16-400", "--output-len", "3000",
                           "--deadline-percent", "100", "--deadline-ms", "20-200")
        self.assertEqual((result["completed"], result["failed"]), (0, 0))
        self.assertEqual((result["deadlines"], result["expired"]), (12, 12))
        # A step later nobody runs: each would have gone on for thousands.
        harness.wait_until(lambda: self.json("info")["server"]["running"] == 0, "requests ended at their deadlines",
                           timeout=PATIENCE_S / 12)

    def test_examples_do_what_semcache_does(self):
        wanted = self.json("generate", "--prompt", TEXT, "--max-tokens", "32", "--temperature", "0",
                           "--kv", "compressed")
        entries = f"kept {wanted['receipt']['physical_entries']} of {wanted['receipt']['exact_entries']} entries"
        in_c = subprocess.run([EXAMPLE, self.daemon.target, TEXT], capture_output=True, timeout=PATIENCE_S)
        self.assertEqual(in_c.returncode, 0, in_c.stderr)
        self.assertEqual(in_c.stdout.decode(errors="replace"), f"{wanted['text']}\n{entries}\n")
        environment = {**os.environ, "PYTHONPATH": harness._generated.name}
        in_python = subprocess.run(
            [sys.executable, str(SOURCE / "examples" / "generate.py"), self.daemon.target, TEXT],
            capture_output=True, timeout=PATIENCE_S, env=environment)
        self.assertEqual(in_python.returncode, 0, in_python.stderr)
        self.assertEqual(in_python.stdout.decode(errors="replace"), f"{wanted['text']}\n{entries}\n")


if __name__ == "__main__":
    unittest.main()
