#!/usr/bin/env python3
"""semcache's documents, keys, top and benchmarks against a server in Python with a made-up cache.

SEMCACHE names the binary. Exit status 77: skipped.
"""

import collections
import concurrent.futures
import json
import math
import os
import pathlib
import pty
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

sys.dont_write_bytecode = True
SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "tests" / "e2e"))
import harness  # noqa: E402  (exits 77 when python3-grpcio is missing)
from harness import common, control, documents, grpc, inference  # noqa: E402

SEMCACHE = os.environ["SEMCACHE"]
PATIENCE_S = harness.PATIENCE_S
FOREVER_US = 2**63 - 1
PART_BYTES = 256 * 1024
PAGE_TOKENS = 16


def words(text):
    """Tokens with the bytes that they stand for: a word and the blank before it."""
    return re.findall(rb" ?[^ ]+| ", text)


class Fake:
    """Documents in a dictionary; a token is a word; answers are as long as was asked."""

    def __init__(self):
        self.documents = collections.OrderedDict()
        self.calls = []  # (method, request, metadata)
        self.room = 1 << 30  # documents beyond it push out the oldest
        self.key = None
        self.full_at = None  # documents; more are refused
        self.always_cached = 0  # tokens of a prompt
        self.prompt_tokens = 0
        self.choose = lambda request: [1] * request.sampling.max_tokens  # token ids of the answer
        self.lock = threading.Lock()
        self.server = grpc.server(concurrent.futures.ThreadPoolExecutor(32))
        for module, service in ((control, "Control"), (documents, "Documents"), (inference, "Inference")):
            self.server.add_generic_rpc_handlers((self.handlers(module, service),))
        self.target = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def handlers(self, module, service):
        table = {}
        descriptor = module.DESCRIPTOR.services_by_name[service]
        for method in descriptor.methods:
            function = getattr(self, method.name, None)
            if function is None:
                continue
            wanted, streams_in, streams_out = harness_side(method)
            kind = {
                (False, False): grpc.unary_unary_rpc_method_handler,
                (False, True): grpc.unary_stream_rpc_method_handler,
                (True, True): grpc.stream_stream_rpc_method_handler,
            }[streams_in, streams_out]
            table[method.name] = kind(
                self.checked(method.name, function, streams_out), wanted.FromString, lambda m: m.SerializeToString()
            )
        return grpc.method_handlers_generic_handler(descriptor.full_name, table)

    def checked(self, name, function, streams_out):
        def note(request, context):
            metadata = dict(context.invocation_metadata())
            with self.lock:
                self.calls.append((name, request, metadata))
            if self.key is not None and metadata.get("authorization") != f"Bearer {self.key}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "authorization: not a key of this server")

        def unary(request, context):
            note(request, context)
            return function(request, context)

        def stream(request, context):
            note(request, context)
            yield from function(request, context)

        return stream if streams_out else unary

    def called(self, name):
        return [call for call in self.calls if call[0] == name]

    # --- Control

    def GetServerInfo(self, request, context):
        return control.GetServerInfoResponse(
            version="0.fake", state=control.SERVER_STATE_READY, tensor_parallel=2, page_bytes=1024
        )

    def GetModelInfo(self, request, context):
        return control.GetModelInfoResponse(name="fake", vocab=1000, tokenizer_vocab=900)

    def GetLoads(self, request, context):
        used = sum(d.receipt.pages for d in self.documents.values())
        self.prompt_tokens += 1000
        return control.GetLoadsResponse(
            pages_total=100000, pages_free=100000 - used, documents=len(self.documents), prompt_tokens=self.prompt_tokens
        )

    def SubscribeKvEvents(self, request, context):
        blocks = control.KvBlocks(
            block_keys=[b"\x01" * 32, b"\xff" * 32], parent_key=b"\xab" * 32, recipe_id="c0" * 32, block_tokens=512,
            start=144, namespace="tenant")
        first = request.from_sequence if request.HasField("from_sequence") else 7
        if first == 7:
            yield control.KvEvent(cleared=control.KvCleared())
            yield control.KvEvent(stored=blocks)
            yield control.KvEvent(sequence=6, synced=control.KvSynced())
        yield control.KvEvent(sequence=first, removed=blocks)
        while context.is_active():
            time.sleep(0.01)

    # --- Documents

    def PutDocument(self, parts, context):
        header, data = None, b""
        for part in parts:
            if header is None:
                if part.WhichOneof("part") != "header":
                    context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first message is no header")
                header = part.header
                if header.document_id in self.documents and not header.replace:
                    context.abort(grpc.StatusCode.ALREADY_EXISTS, f"document_id: '{header.document_id}' exists")
                if self.full_at is not None and len(self.documents) >= self.full_at:
                    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "pages: full")
                continue
            if not 1 <= len(part.data) <= PART_BYTES:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"data: {len(part.data)} bytes")
            data += part.data
            yield documents.PutDocumentResponse(progress=documents.DocumentProgress(bytes_received=len(data)))
        total = len(words(data))
        for done in range(0, total, max(1, total // 4)):
            yield documents.PutDocumentResponse(
                progress=documents.DocumentProgress(bytes_received=len(data), tokens_done=done, tokens_total=total)
            )
        now = int(time.time() * 1e6)
        document = documents.Document(
            document_id=header.document_id or "made-up-1", title=header.title, bytes=len(data), tokens=total,
            state=documents.DOCUMENT_STATE_READY, created_unix_us=now, last_used_unix_us=now)
        document.receipt.pages = -(-total // PAGE_TOKENS)
        document.receipt.exact_entries = total * 4
        document.receipt.physical_entries = total
        document.receipt.ratio = 0.25
        if header.HasField("pin_ttl_seconds"):
            document.pinned_until_unix_us = now + header.pin_ttl_seconds * 10**6 if header.pin_ttl_seconds else FOREVER_US
        with self.lock:
            self.documents[document.document_id] = document
            ready = [d for d in self.documents.values() if d.state == documents.DOCUMENT_STATE_READY]
            for old in ready[: max(0, len(ready) - self.room)]:
                old.state = documents.DOCUMENT_STATE_EVICTED
        yield documents.PutDocumentResponse(document=document)

    def find(self, name, context):
        if name not in self.documents:
            context.abort(grpc.StatusCode.NOT_FOUND, f"document_id: '{name}' is not known")
        return self.documents[name]

    def GetDocument(self, request, context):
        return self.find(request.document_id, context)

    def ListDocuments(self, request, context):
        names = list(self.documents)
        first = int(request.page_token or 0)
        reply = documents.ListDocumentsResponse(documents=[self.documents[n] for n in names[first : first + 2]])
        if first + 2 < len(names):
            reply.next_page_token = str(first + 2)
        return reply

    def PinDocument(self, request, context):
        document = self.find(request.document_id, context)
        document.ClearField("pinned_until_unix_us")
        if request.HasField("ttl_seconds"):
            ttl = request.ttl_seconds
            document.pinned_until_unix_us = int((time.time() + ttl) * 1e6) if ttl else FOREVER_US
        return document

    def DeleteDocument(self, request, context):
        self.find(request.document_id, context)
        del self.documents[request.document_id]
        return documents.DeleteDocumentResponse()

    # --- Inference

    def Tokenize(self, request, context):
        pieces = words(request.text)
        return inference.TokenizeResponse(
            token_ids=range(len(pieces)), pieces=pieces if request.return_pieces else [], max_context=1 << 20
        )

    def GenerateStream(self, request, context):
        which = request.WhichOneof("prompt")
        cached = self.always_cached
        if which == "documents":
            cached = sum(self.find(name, context).tokens for name in request.documents.document_ids)
            total = cached + len(words(request.documents.question))
        elif which == "token_ids":
            total = len(request.token_ids.ids)
        else:
            total = len(words(request.text))
        chosen = self.choose(request)
        for token in chosen:
            delta = inference.Delta(text=b"x" * token, token_ids=[token])
            if request.sampling.HasField("logprobs"):
                top = [inference.TopLogprob(token_id=t, logprob=math.log(0.75 if t == token else 0.25)) for t in (1, 2)]
                delta.logprobs.add(token_id=token, logprob=math.log(0.75), top=top)
            yield inference.GenerateStreamResponse(delta=delta)
        final = inference.Final(finish_reason=inference.FINISH_REASON_LENGTH)
        final.usage.prompt_tokens = total
        final.usage.cached_tokens = cached
        final.usage.completion_tokens = len(chosen)
        final.receipt.exact_entries = 4 * total
        final.receipt.physical_entries = (4 if request.kv.mode == common.KV_MODE_EXACT else 1) * total
        final.receipt.pages = 3
        final.timings.ttft_us = 1500
        yield inference.GenerateStreamResponse(request_id="r", final=final)


def harness_side(method):
    """The request's class, and which sides stream; descriptors of older protobufs do not tell the latter."""
    name = method.input_type.name
    module = {m.DESCRIPTOR.name: m for m in (control, documents, inference)}[method.input_type.file.name]
    streams_in = method.name == "PutDocument"
    streams_out = method.name in ("PutDocument", "GenerateStream", "SubscribeKvEvents")
    return getattr(module, name), streams_in, streams_out


class Documents(unittest.TestCase):
    def setUp(self):
        self.fake = Fake()
        self.addCleanup(lambda: self.fake.server.stop(0))
        folder = tempfile.TemporaryDirectory(prefix="semcache-test-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.environment = {k: v for k, v in os.environ.items() if k != "SEMCACHE_API_KEY"}

    def file(self, name, text):
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def suite(self, *tasks):
        """Two documents for each task, with two questions."""
        return self.file("suite.jsonl", "".join(json.dumps(
            {"id": f"{task}-{n}", "task": task, "length": 1000, "depth": n, "document": f"the document {n}\n",
             "questions": [{"q": "one?", "a": ["x"]}, {"q": "both?", "a": ["x", "y"], "depth": None}]}) + "\n"
            for task in tasks for n in range(2)))

    def run_semcache(self, *args, status=0, stdin="", **environment):
        done = subprocess.run(
            [SEMCACHE, *args, "--server", self.fake.target], capture_output=True, text=True, input=stdin,
            timeout=PATIENCE_S, env={**self.environment, **environment},
        )
        self.assertEqual(done.returncode, status, done.stdout + done.stderr)
        return done

    def json(self, *args, **kwargs):
        return json.loads(self.run_semcache(*args, "--json", **kwargs).stdout)

    def test_ingest_puts_each_file_and_goes_on_after_a_failure(self):
        first, second = self.file("a.txt", "one two three\n\n"), self.file("b.txt", "four " * 200000)
        missing = str(self.folder / "missing.txt")
        done = self.run_semcache("ingest", first, missing, second, status=1)
        self.assertEqual(
            done.stdout.splitlines()[0], "a.txt: 3 tokens, 3 of 12 entries kept (ratio 0.250), 1 page")
        self.assertTrue(done.stdout.splitlines()[1].startswith("b.txt: 200001 tokens"))
        self.assertIn("missing.txt: ", done.stderr)
        self.assertIn("1 of 3 files failed", done.stderr)
        self.assertEqual(self.fake.documents["a.txt"].bytes, len("one two three"))
        self.assertEqual(self.fake.documents["b.txt"].bytes, 1000000)
        done = self.run_semcache("ingest", first, status=1)
        self.assertEqual(done.stderr, "semcache: ALREADY_EXISTS: document_id: 'a.txt' exists\n")
        self.run_semcache("ingest", "--replace", first)

    def test_ingest_sends_the_header_that_options_describe(self):
        done = self.json("ingest", "--id", "x", "--title", "T é", "--pin=3600", "--kv", "compressed",
                         "--target-ratio", "0.5", "-", stdin="some text")
        self.assertEqual((done["document_id"], done["title"], done["state"]), ("x", "T é", "ready"))
        self.assertGreater(done["pinned_until_unix_us"], time.time() * 1e6)
        self.assertEqual(self.run_semcache("ingest", "-", "--quiet", stdin="text").stdout, "made-up-1\n")
        both = [self.file("a", "a"), self.file("b", "b")]
        self.run_semcache("ingest", "--id", "x", *both, status=2)
        self.run_semcache("ingest", "--quiet", "--pin", *both)
        self.assertEqual(self.fake.documents["a"].pinned_until_unix_us, FOREVER_US)
        binary = self.folder / "binary"
        binary.write_bytes(b"a\xff")
        self.assertIn("not UTF-8", self.run_semcache("ingest", str(binary), status=1).stderr)

    def test_ingest_draws_its_progress_on_a_terminal(self):
        path = self.file("long.txt", "word " * 300000)
        status, text = self.on_a_terminal("ingest", path)
        self.assertEqual(status, 0, text)
        self.assertIn("long.txt [", text)
        self.assertIn(" sent", text)
        self.assertRegex(text, r"[0-9]+/300001 tokens")
        self.assertIn("long.txt: 300001 tokens", text)

    def test_documents_are_listed_shown_pinned_and_removed(self):
        paths = [self.file(f"d{i}", f"document {i}") for i in range(5)]
        self.run_semcache("ingest", *paths)
        table = self.run_semcache("documents", "list").stdout.splitlines()
        self.assertEqual(table[0].split()[:4], ["id", "title", "state", "tokens"])
        self.assertEqual([line.split()[0] for line in table[1:]], [f"d{i}" for i in range(5)])
        self.assertEqual(len(self.fake.called("ListDocuments")), 3)
        self.assertEqual(len(self.json("documents", "list")["documents"]), 5)
        self.assertEqual(self.json("documents", "show", "d3")["tokens"], 2)
        self.assertRegex(self.run_semcache("documents", "show", "d3").stdout, r"pinned +no\n")
        self.assertIn("until deleted", self.run_semcache("documents", "pin", "d3").stdout)
        self.assertIn("min left", self.run_semcache("documents", "pin", "d3", "--ttl", "1000").stdout)
        self.assertNotIn("pinned_until_unix_us", self.json("documents", "unpin", "d3"))
        done = self.run_semcache("documents", "rm", "d0", "nobody", "d1", status=1)
        self.assertEqual(done.stdout, "d0 deleted\nd1 deleted\n")
        self.assertIn("nobody: NOT_FOUND: document_id: 'nobody' is not known", done.stderr)
        self.assertEqual(self.json("documents", "rm", "d2"), {"deleted": ["d2"]})
        self.assertEqual(list(self.fake.documents), ["d3", "d4"])
        for wrong in (["show"], ["show", "a", "b"], ["list", "a"], ["rm"], ["drop", "a"], ["list", "--ttl", "1"]):
            self.run_semcache("documents", *wrong, status=2)

    def test_ask_names_documents_and_the_receipt_tells_of_cached_tokens(self):
        self.run_semcache("ingest", self.file("a", "one two"), self.file("b", "three"))
        done = self.run_semcache("ask", "--doc", "a", "--doc", "b", "--priority", "-7", "--max-tokens", "3", "Who?")
        self.assertEqual(done.stdout, "xxx")
        self.assertIn("(3 cached)", done.stderr)
        request = self.fake.called("GenerateStream")[0][1]
        self.assertEqual(list(request.documents.document_ids), ["a", "b"])
        self.assertEqual(request.documents.question, b"\n\nQuestion: Who?\nAnswer:")
        self.assertEqual(request.priority, -7)
        self.assertEqual(self.json("ask", "--doc", "a", "Who?")["usage"]["cached_tokens"], 2)
        done = self.run_semcache("ask", "--doc", "c", "Who?", status=1)
        self.assertIn("NOT_FOUND: document_id: 'c' is not known", done.stderr)
        self.run_semcache("ask", "--doc", "a", "--document", str(self.folder / "a"), "Who?", status=2)
        self.run_semcache("ask", "Who?", status=2)

    def test_every_command_carries_the_key(self):
        self.fake.key = "k-123"
        path, key = self.file("a", "text"), self.file("key", "k-123\r\n")
        commands = [["ingest", path], ["documents", "list"], ["documents", "pin", "a"], ["ask", "--doc", "a", "Who?"],
                    ["generate", "--prompt", "a", "--max-tokens", "1"], ["tokenize", "--text", "a"], ["info"],
                    ["top", "--interval", "0.1"], ["bench", "serve", "--prompt-len", "4", "--output-len", "2"],
                    ["bench", "documents", "--documents", "1", "--document-len", "9", "--output-len", "1"],
                    ["bench", "quality", "--suite", self.suite("a")]]
        for command in commands:
            with self.subTest(command=command):
                done = self.run_semcache(*command, status=1)
                self.assertIn("UNAUTHENTICATED: authorization: not a key of this server", done.stderr)
                self.run_semcache(*command, "--api-key-file", key)
                self.run_semcache(*command, *(["--replace"] if command[0] == "ingest" else []), SEMCACHE_API_KEY="k-123")
        for _, _, metadata in self.fake.calls:
            self.assertIn(metadata.get("authorization"), (None, "Bearer k-123"))
        wrong = self.file("wrong", "two words\n")
        done = self.run_semcache("info", "--api-key-file", wrong, SEMCACHE_API_KEY="k-123", status=2)
        self.assertNotIn("words", done.stderr)
        self.run_semcache("info", "--api-key-file", self.file("empty", ""), status=2)
        self.run_semcache("info", "--api-key-file", str(self.folder / "missing"), status=2)

    def test_top_prints_one_block_for_a_pipe(self):
        text = self.run_semcache("top", "--interval", "0.1").stdout
        self.assertNotIn("\033", text)
        self.assertRegex(text, r"per second  [0-9]+\.[0-9] prompt tokens")
        top = self.json("top", "--interval", "0.1")
        self.assertEqual(top["loads"]["pages_total"], 100000)
        self.assertGreater(top["rates"]["prompt_tokens_per_s"], 0)

    def test_top_restores_the_terminal_when_interrupted(self):
        status, text = self.on_a_terminal("top", "--interval", "0.1", interrupt_after="per second  [1-9]")
        self.assertEqual(status, 0, text)
        self.assertTrue(text.startswith("\033[?1049h\033[?25l"))
        self.assertTrue(text.rstrip().endswith("\033[?25h\033[?1049l"), text[-80:])

    def test_events_are_a_line_each(self):
        lines = self.run_semcache("events", "--once").stdout.splitlines()
        self.assertEqual([line.split()[1] for line in lines if line.split()[0] in "-6"], ["cleared", "stored", "synced"])
        self.assertIn("stored  0101010101010101 behind abababababababab  tokens 144..656  recipe c0c0c0c0c0c0", lines[1])
        self.assertIn("stored  ffffffffffffffff behind 0101010101010101  tokens 656..1168", lines[2])
        objects = [json.loads(line) for line in self.run_semcache("events", "--once", "--json").stdout.splitlines()]
        self.assertEqual(objects[1]["stored"]["block_keys"], ["01" * 32, "ff" * 32])
        self.assertEqual(objects[1]["stored"]["parent_key"], "ab" * 32)
        self.assertEqual(objects[-1], {"sequence": 6, "synced": {}})
        self.assertIn("exclude each other", self.run_semcache("events", "--once", "--from", "3", status=2).stderr)
        status, text = self.on_a_terminal("events", "--from", "41", interrupt_after="41 removed")
        self.assertEqual(status, 0, text)
        self.assertNotIn("cleared", text)

    def test_bench_serve_sends_what_was_asked_for(self):
        bench = ["bench", "serve", "--streams", "8", "--requests", "40", "--prompt-len", "20-30", "--output-len", "2-5",
                 "--shared-prefix", "12", "--seed", "5"]
        result = self.json(*bench)
        self.assertEqual((result["completed"], result["failed"]), (40, 0))
        requests = [call[1] for call in self.fake.called("GenerateStream")]
        prompts = [list(request.token_ids.ids) for request in requests]
        self.assertEqual(len({tuple(p[:12]) for p in prompts}), 1)
        self.assertEqual(len({tuple(p) for p in prompts}), 40)
        self.assertTrue(all(20 <= len(p) <= 30 and max(p) < 900 for p in prompts))
        lengths = [request.sampling.max_tokens for request in requests]
        self.assertEqual((min(lengths), max(lengths)), (2, 5))
        self.assertTrue(all(request.sampling.ignore_eos for request in requests))
        self.assertEqual(result["ttft_ms"]["n"], 40)
        self.assertEqual(result["tokens_received"], sum(lengths))
        self.json(*bench)
        again = [list(call[1].token_ids.ids) for call in self.fake.called("GenerateStream")[40:]]
        self.assertEqual(sorted(prompts), sorted(again))
        self.run_semcache("bench", "serve", "--prompt-len", "4", "--shared-prefix", "5", status=2)
        self.run_semcache("bench", "serve", "--rate", "5", status=2)

    def test_bench_serve_gives_deadlines_to_the_share_asked_for(self):
        bench = ["bench", "serve", "--streams", "4", "--requests", "60", "--prompt-len", "20", "--output-len", "2",
                 "--deadline-percent", "40", "--deadline-ms", "5000-9000", "--seed", "5"]
        result = self.json(*bench)
        self.assertEqual((result["completed"], result["failed"], result["expired"]), (60, 0, 0))
        self.assertTrue(12 <= result["deadlines"] <= 36, result["deadlines"])
        self.assertEqual(result["config"]["deadline_ms"], [5000, 9000])
        self.assertEqual(self.json(*bench)["deadlines"], result["deadlines"])
        self.assertNotIn("deadlines", self.run_semcache("bench", "serve", "--prompt-len", "4").stdout)

    def test_bench_documents_measures_and_cleans_up(self):
        self.fake.room = 3
        bench = ["bench", "documents", "--documents", "4", "--questions", "6", "--passes", "2", "--document-len", "100",
                 "--question-len", "10", "--output-len", "2", "--kv", "compressed", "--target-ratio", "0.25"]
        result = self.json(*bench)
        self.assertEqual(result["resident"], {"after_ingest": 3, "at_end": 3})
        self.assertEqual((result["ingest"]["documents"], result["ingest"]["failed"]), (4, 0))
        self.assertEqual(result["ingest"]["tokens"], 400)
        self.assertEqual(result["warm"]["completed"], 12)
        self.assertEqual(result["cold"]["completed"], 4)
        self.assertEqual(result["cold"]["prompt_tokens"], 4 * 110)
        self.assertAlmostEqual(result["hit_rate"], 100 / 110, places=3)
        self.assertEqual(result["bytes_per_document"], 7 * 1024 * 2)
        self.assertEqual(result["peak_bytes"], 4 * 7 * 1024 * 2)
        asked = [call[1].documents for call in self.fake.called("GenerateStream")
                 if call[1].WhichOneof("prompt") == "documents"]
        counts = collections.Counter(a.document_ids[0] for a in asked[:6])
        self.assertEqual(sorted(counts.values()), [1, 1, 2, 2])
        self.assertEqual(len({a.question for a in asked}), 12)
        self.assertTrue(all(call[1].kv.target_ratio == 0.25 for call in self.fake.called("GenerateStream")))
        self.assertEqual(len(self.fake.documents), 0)
        text = self.run_semcache(*bench, "--keep").stdout
        self.assertIn("TTFT cold", text)
        self.assertIn("90.9% of prompt tokens cached", text)
        self.assertEqual(len(self.fake.documents), 4)

    def test_bench_documents_tells_of_a_full_server_and_of_warm_cold_prompts(self):
        bench = ["bench", "documents", "--documents", "3", "--document-len", "20", "--question-len", "5"]
        self.fake.full_at = 2
        done = self.run_semcache(*bench, status=1)
        self.assertIn("2 put in", done.stdout)
        self.assertIn("1 of 3 documents were not put, the first for RESOURCE_EXHAUSTED: pages: full", done.stderr)
        self.assertNotIn("warning", done.stdout)
        self.fake.full_at = 0
        done = self.run_semcache(*bench, status=1)
        self.assertEqual(done.stderr, "semcache: no document could be put: RESOURCE_EXHAUSTED: pages: full\n")
        self.fake.full_at = None
        self.fake.always_cached = 5
        self.assertIn("warning     20.0% of the cold prompts' tokens were cached", self.run_semcache(*bench).stdout)

    def test_bench_quality_judges_and_counts(self):
        self.fake.always_cached = 2
        bench = ["bench", "quality", "--suite", self.suite("a", "b"), "--kv", "compressed", "--target-ratio", "0.25",
                 "--max-tokens", "1", "--answer-prefix", "\\nA:"]
        result = self.json(*bench)
        requests = [call[1] for call in self.fake.called("GenerateStream")]
        self.assertEqual(len(requests), 8)
        self.assertEqual(requests[0].text, b"the document 0\n\nQuestion: one?\nA:")
        self.assertTrue(all(r.kv.target_ratio == 0.25 and r.sampling.temperature == 0 for r in requests))
        self.assertTrue(all(r.sampling.max_tokens == 1 and list(r.sampling.stop) == ["\n"] for r in requests))
        total = result["total"]
        self.assertEqual((total["asked"], total["right"], total["exact_match"]), (8, 4, 0.5))
        self.assertEqual((total["kept"]["share"], total["kept"]["mean_bytes"]), (0.25, 3 * 1024 * 2))
        self.assertEqual(total["cached_tokens"], 16)
        self.assertEqual([(t["task"], t["length"], t["right"], t["asked"]) for t in result["tasks"]],
                         [("a", 1000, 2, 4), ("b", 1000, 2, 4)])
        self.assertEqual([(d["depth"], d["right"], d["asked"]) for d in result["depths"]], [(0, 2, 2), (1, 2, 2)])
        self.assertEqual(len(result["cells"]), 6)
        self.assertEqual(result["failures"][0], {
            "id": "a-0", "task": "a", "question": "both?", "wanted": "x and y", "got": "x"})
        self.assertEqual(len(result["failures"]), 4)
        self.assertEqual(self.json(*bench, "--limit", "1")["config"]["documents"], 2)
        text = self.run_semcache(*bench).stdout
        self.assertRegex(text, r"(?m)^a, 1000 +2 of 4 +0\.500 +0\.150-0\.850 +0\.250$")

    def test_bench_quality_follows_the_exact_answer(self):
        def choose(request):
            exact = request.kv.mode == common.KV_MODE_EXACT
            return ([1, 1, 1] if exact else [1, 2, 1])[:request.sampling.max_tokens]
        self.fake.choose = choose
        result = self.json("bench", "quality", "--suite", self.suite("a"), "--limit", "1", "--kv", "compressed",
                           "--against-exact")
        forced = [call[1] for call in self.fake.called("GenerateStream") if call[1].WhichOneof("prompt") == "token_ids"]
        n_prompt = len(words(b"the document 0\n\nQuestion: one?\nAnswer:"))
        self.assertEqual(list(forced[0].token_ids.ids), [*range(n_prompt), 1, 1])
        self.assertEqual((len(forced), forced[0].sampling.max_tokens), (2, 1))
        exact = result["total"]["exact"]
        self.assertEqual((exact["tokens"], exact["right"], exact["both_right"]), (6, 0, 0))
        self.assertAlmostEqual(exact["agreement"], 2 / 3)
        self.assertAlmostEqual(exact["kl"], 0.5 * math.log(3) / 3, places=5)
        self.assertEqual(result["failures"][0]["exact_got"], "xxx")

    def test_bench_quality_says_what_is_wrong_with_a_suite(self):
        good = json.dumps({"id": "i", "task": "t", "length": 1, "document": "d", "questions": [{"q": "q", "a": ["a"]}]})
        for wrong, what in (("[]", "not a JSON object"), ("{", "column"), (good.replace('"i"', "3"), "id is not a string"),
                            (good.replace('["a"]', "[]"), "a is not a list of answers")):
            path = self.file("wrong.jsonl", good + "\n\n" + wrong + "\n")
            done = self.run_semcache("bench", "quality", "--suite", path, status=2)
            self.assertIn("wrong.jsonl:3: ", done.stderr)
            self.assertIn(what, done.stderr)
        self.assertIn("--suite", self.run_semcache("bench", "quality", status=2).stderr)
        self.run_semcache("bench", "quality", "--suite", str(self.folder / "missing"), status=2)

    def test_help_explains_commands_of_two_words(self):
        def explain(*words):
            return subprocess.run([SEMCACHE, "help", *words], capture_output=True, text=True)
        both = explain("bench").stdout
        self.assertIn("usage: semcache bench serve", both)
        self.assertIn("usage: semcache bench documents", both)
        self.assertNotIn("bench documents", explain("bench", "serve").stdout)
        self.assertEqual(explain("ben").returncode, 2)

    def on_a_terminal(self, *args, interrupt_after=None):
        """The exit status and all that was shown. interrupt_after: SIGINT once the text matches that."""
        process, master = pty.fork()
        if process == 0:
            os.execve(SEMCACHE, [SEMCACHE, *args, "--server", self.fake.target], {**self.environment, "TERM": "xterm"})
        text = ""
        while True:
            try:
                more = os.read(master, 65536)
            except OSError:
                break
            if not more:
                break
            text += more.decode(errors="replace")
            if interrupt_after and re.search(interrupt_after, text):
                os.kill(process, signal.SIGINT)
                interrupt_after = None
        os.close(master)
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), text


if __name__ == "__main__":
    unittest.main()
