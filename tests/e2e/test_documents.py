"""Documents, namespaces and the store, end to end: put once, ask often, over restarts and between daemons."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

import harness as h
from harness import Code, ask, common, documents, inference

DEMO = h.SOURCE / "models" / "demo"
TEXT = (DEMO / "sample" / "document.txt").read_text().rstrip("\n")[:9000]
QUESTION = "\n\nQuestion: What colour is the flag of Caldwell?\nAnswer:"
KV = common.KvOptions(mode=common.KV_MODE_COMPRESSED, target_ratio=0.25)
USER_A, USER_B, ADMIN = "key-of-a-0123456789", "key-of-b-0123456789", "key-of-admin-0123456"


def meta(key):
    return [("authorization", f"Bearer {key}")] if key else None


def put(daemon, text, key=None, part=1000, **header):
    data = text if isinstance(text, bytes) else text.encode()

    def parts():
        yield documents.PutDocumentRequest(header=documents.DocumentHeader(**header))
        for i in range(0, len(data), part):
            yield documents.PutDocumentRequest(data=data[i : i + part])

    call = daemon.client.channel.stream_stream(
        "/semanticache.v1.Documents/PutDocument",
        request_serializer=documents.PutDocumentRequest.SerializeToString,
        response_deserializer=documents.PutDocumentResponse.FromString,
    )
    answers = list(call(parts(), timeout=h.PATIENCE_S, metadata=meta(key)))
    assert answers[-1].WhichOneof("event") == "document", answers
    return answers[-1].document, [a.progress for a in answers[:-1]]


def question(ids, text=QUESTION, **fields):
    request = ask(**fields)
    request.documents.document_ids.extend(ids)
    request.documents.question = text.encode()
    return request


def call(daemon, method, message, key=None):
    return method(message, timeout=h.PATIENCE_S, metadata=meta(key))


def generate(daemon, request, key=None):
    return call(daemon, daemon.client.inference.Generate, request, key)


def get(daemon, document_id, key=None):
    message = documents.GetDocumentRequest(document_id=document_id)
    return call(daemon, daemon.client.documents.GetDocument, message, key)


class Case(unittest.TestCase):
    def setUp(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="sc-documents-"))
        self.daemons = []

    def tearDown(self):
        for daemon in self.daemons:
            daemon.kill()
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, settings="", model=DEMO, ranks=1):
        config = self.dir / "daemon.conf"
        config.write_text(settings)
        daemon = h.Daemon(model, ["--config", str(config), "--tensor-parallel", str(ranks)])
        self.daemons.append(daemon)
        return daemon

    def refused(self, code, words, function, *args, **kwargs):
        with self.assertRaises(h.grpc.RpcError) as caught:
            function(*args, **kwargs)
        self.assertEqual(caught.exception.code(), code, caught.exception.details())
        self.assertIn(words, caught.exception.details())


class Documents(Case):
    def test_a_document_is_put_once_and_asked_often(self):
        d = self.start()
        cold = generate(d, ask(text=TEXT + QUESTION, kv=KV))
        d.client.control.FlushCache(h.control.FlushCacheRequest())
        document, progress = put(d, TEXT, document_id="doc", title="A title", kv=KV)
        self.assertEqual((document.document_id, document.title), ("doc", "A title"))
        self.assertEqual(document.bytes, len(TEXT.encode()))
        self.assertEqual(document.state, documents.DOCUMENT_STATE_READY)
        self.assertLess(document.receipt.physical_entries, document.receipt.exact_entries)
        self.assertTrue(progress and progress[-1].tokens_total == document.tokens)
        for _ in range(3):
            warm = generate(d, question(["doc"]))
            self.assertGreaterEqual(warm.usage.cached_tokens, document.tokens)
            self.assertEqual(warm.outputs[0].token_ids, cold.outputs[0].token_ids)
            self.assertEqual(warm.usage.prompt_tokens, cold.usage.prompt_tokens)
        # Entries of another mode never answer.
        exact = generate(d, question(["doc"], kv=h.exact()))
        self.assertEqual(exact.usage.cached_tokens, 0)
        loads = d.client.control.GetLoads(h.control.GetLoadsRequest())
        self.assertEqual(loads.documents, 1)
        self.assertGreater(loads.prefix_hit_tokens, 3 * document.tokens - 1)

    def test_several_documents_make_one_prompt(self):
        d = self.start()
        one, _ = put(d, TEXT[:3000], document_id="one", kv=KV)
        put(d, TEXT[3000:6000], document_id="two", kv=KV)
        both = generate(d, question(["one", "two"]))
        self.assertEqual(both.usage.cached_tokens, one.tokens)
        again = generate(d, question(["one", "two"], text="\n\nQuestion: And?\nAnswer:"))
        self.assertGreater(again.usage.cached_tokens, one.tokens)

    def test_list_pin_delete(self):
        d = self.start()
        for i in range(5):
            put(d, TEXT[: 2000 + i], document_id=f"d{i}", kv=KV)
        page = d.client.documents.ListDocuments(documents.ListDocumentsRequest(page_size=3))
        self.assertEqual([x.document_id for x in page.documents], ["d0", "d1", "d2"])
        page = d.client.documents.ListDocuments(
            documents.ListDocumentsRequest(page_size=3, page_token=page.next_page_token)
        )
        self.assertEqual([x.document_id for x in page.documents], ["d3", "d4"])
        self.assertEqual(page.next_page_token, "")
        pinned = d.client.documents.PinDocument(
            documents.PinDocumentRequest(document_id="d1", ttl_seconds=0)
        )
        self.assertEqual(pinned.pinned_until_unix_us, 2**63 - 1)
        d.client.control.FlushCache(h.control.FlushCacheRequest())
        self.assertEqual(get(d, "d1").state, documents.DOCUMENT_STATE_READY)
        self.assertEqual(get(d, "d2").state, documents.DOCUMENT_STATE_EVICTED)
        # An evicted one is read again, answers, and is what it was.
        again = generate(d, question(["d2"]))
        self.assertLess(again.usage.cached_tokens, again.usage.prompt_tokens // 2 + 2000)
        self.assertEqual(get(d, "d2").state, documents.DOCUMENT_STATE_READY)
        d.client.documents.PinDocument(
            documents.PinDocumentRequest(document_id="d2", ttl_seconds=5)
        )
        self.refused(
            Code.FAILED_PRECONDITION,
            "not on the device",
            d.client.documents.PinDocument,
            documents.PinDocumentRequest(document_id="d3", ttl_seconds=5),
        )
        d.client.documents.PinDocument(documents.PinDocumentRequest(document_id="d1"))
        for i in range(5):
            d.client.documents.DeleteDocument(
                documents.DeleteDocumentRequest(document_id=f"d{i}")
            )
        self.refused(Code.NOT_FOUND, "d1", get, d, "d1")
        self.refused(Code.NOT_FOUND, "d1", generate, d, question(["d1"]))
        h.wait_until(lambda: h.is_idle(d.client), "all pages free")

    def test_bad_documents_are_refused_and_leave_nothing(self):
        d = self.start()
        put(d, TEXT[:500], document_id="here", kv=KV)
        for code, words, text, header in (
            (Code.ALREADY_EXISTS, "here", TEXT, {"document_id": "here"}),
            (Code.INVALID_ARGUMENT, "empty", b"", {}),
            (Code.INVALID_ARGUMENT, "byte 3 of 4", b"abc\xff", {}),
            (Code.INVALID_ARGUMENT, "document_id", TEXT, {"document_id": "a b"}),
            (Code.INVALID_ARGUMENT, "target_ratio", TEXT, {"kv": common.KvOptions(target_ratio=7)}),
            (Code.FAILED_PRECONDITION, "context", TEXT * 9, {}),
        ):
            with self.subTest(words=words):
                self.refused(code, words, put, d, text, **header)
        put(d, "é" * 400, document_id="cut", part=3, kv=KV)  # characters cut between parts
        put(d, TEXT[:600], document_id="here", replace=True, kv=KV)
        self.assertEqual(get(d, "here").bytes, 600)
        listed = d.client.documents.ListDocuments(documents.ListDocumentsRequest()).documents
        self.assertEqual([x.document_id for x in listed], ["cut", "here"])

    def test_documents_survive_a_restart(self):
        settings = (
            f'store = {{ dir = "{self.dir}/store"; }}; documents = {{ dir = "{self.dir}/docs"; }};'
        )
        d = self.start(settings)
        document, _ = put(d, TEXT, document_id="doc", kv=KV)
        want = generate(d, question(["doc"]))
        h.wait_until(lambda: list(self.dir.glob("store/*/*.core")), "a core file")
        self.assertEqual(d.stop(), 0)
        d = self.start(settings)
        self.assertEqual(get(d, "doc").state, documents.DOCUMENT_STATE_READY)
        got = generate(d, question(["doc"]))
        self.assertEqual(got.usage.cached_tokens, document.tokens)
        self.assertEqual(got.outputs[0].token_ids, want.outputs[0].token_ids)
        self.assertEqual(d.client.control.GetLoads(h.control.GetLoadsRequest()).store_hits, 1)
        self.assertEqual(d.stop(), 0)
        # A damaged core file is a miss, a damaged document is skipped; neither is a wrong answer.
        core = next(self.dir.glob("store/*/*.core"))
        blob = bytearray(core.read_bytes())
        blob[len(blob) // 2] ^= 1
        core.write_bytes(blob)
        d = self.start(settings)
        got = generate(d, question(["doc"]))
        self.assertEqual(got.usage.cached_tokens, 0)
        self.assertEqual(got.outputs[0].token_ids, want.outputs[0].token_ids)
        self.assertEqual(d.stop(), 0)
        file = next(self.dir.glob("docs/*.doc"))
        file.write_bytes(file.read_bytes()[:-1])
        d = self.start(settings)
        self.refused(Code.NOT_FOUND, "doc", get, d, "doc")
        self.assertIn("document skipped", d.tail())
        self.assertTrue(list(self.dir.glob("docs/*.bad")))

    def test_a_model_without_a_calibration_file_keeps_its_documents_with_other_ranks(self):
        model = self.dir / "model"
        model.mkdir()
        for file in DEMO.iterdir():
            if file.name != "semanticache-calibration.json":
                (model / file.name).symlink_to(file)
        settings = (
            f'store = {{ dir = "{self.dir}/store"; }}; documents = {{ dir = "{self.dir}/docs"; }};'
        )

        def start(ranks):
            d = self.start(settings, model, ranks)
            info = d.client.control.GetModelInfo(h.control.GetModelInfoRequest())
            self.assertTrue(info.calibration_builtin)
            self.assertIn(info.calibration_id, d.tail())
            return d, info.calibration_id

        d, measured = start(1)
        self.assertEqual(d.stop(), 0)
        kept = next(self.dir.glob("store/calibration-*.json"))
        self.assertIn(f'built-in text" kept_in={kept} ', d.tail())
        # Here two ranks might measure the same as one. What only this file says they do not.
        numbers = json.loads(kept.read_text())
        numbers["key_var"][0] *= 1.001
        del numbers["digest"]
        kept.write_text(json.dumps(numbers))
        d, changed = start(2)
        self.assertNotEqual(changed, measured)
        self.assertIn(f'built-in text before" kept_in={kept} ', d.tail())
        document, _ = put(d, TEXT, document_id="doc", kv=KV)
        h.wait_until(lambda: list(self.dir.glob("store/*/*.core")), "a core file")
        self.assertEqual(d.stop(), 0)
        d, again = start(1)
        self.assertEqual(again, changed)
        self.assertEqual(get(d, "doc").state, documents.DOCUMENT_STATE_READY)
        self.assertEqual(generate(d, question(["doc"])).usage.cached_tokens, document.tokens)
        self.assertEqual(d.client.control.GetLoads(h.control.GetLoadsRequest()).store_hits, 1)
        self.assertEqual(d.stop(), 0)
        kept.write_bytes(kept.read_bytes()[:-100])
        d, anew = start(1)
        self.assertEqual(anew, measured)
        self.assertIn("calibration refused", d.tail())
        self.assertIn("digest", kept.read_text())
        self.assertEqual(d.stop(), 0)
        # Where machines share a directory, they share the thresholds.
        settings = settings.replace("store = {", f'store = {{ shared_dir = "{self.dir}/shared";')
        d, _ = start(1)
        self.assertTrue((self.dir / "shared" / kept.name).is_file())

    def test_warm_documents_and_pins_are_there_after_a_start(self):
        (self.dir / "one.txt").write_text(TEXT[:3000] + "\n")
        (self.dir / "manifest").write_text(
            f"# what everybody asks\none {self.dir}/one.txt pin\ntwo {self.dir}/absent.txt\nbroken\n"
        )
        settings = (
            f'documents = {{ dir = "{self.dir}/docs"; warm = "{self.dir}/manifest"; }};'
            'kv = { default_mode = "compressed"; };'
        )
        d = self.start(settings)
        h.wait_until(lambda: "line=4" in d.tail(), "the manifest is read")
        self.assertIn("document not read", d.tail())
        one = get(d, "one")
        self.assertEqual(one.pinned_until_unix_us, 2**63 - 1)
        self.assertEqual(generate(d, question(["one"])).usage.cached_tokens, one.tokens)
        self.assertEqual(d.stop(), 0)
        d = self.start(settings.replace(f'warm = "{self.dir}/manifest";', ""))
        h.wait_until(lambda: "document read" in d.tail(), "the pinned one is read again")
        d.client.control.FlushCache(h.control.FlushCacheRequest())
        self.assertEqual(get(d, "one").state, documents.DOCUMENT_STATE_READY)

    @unittest.skipUnless(shutil.which("redis-server"), "redis-server is not installed")
    def test_two_daemons_share_a_redis(self):
        path, config, login = (self.dir / name for name in ("redis.sock", "redis.conf", "login"))
        config.write_text(f'port 0\nunixsocket {path}\nsave ""\nrequirepass not-to-be-seen\n')
        login.write_text("not-to-be-seen\n")
        login.chmod(0o600)
        redis = subprocess.Popen(
            ["redis-server", str(config)],
            cwd=self.dir,
            stdout=subprocess.DEVNULL,
        )
        try:
            h.wait_until(path.exists, "redis listens")
            settings = f'store = {{ redis = "unix:{path}"; redis_login_file = "{login}"; }};'
            first, second = self.start(settings), self.start(settings)
            document, _ = put(first, TEXT, document_id="doc", kv=KV)
            time.sleep(1.0)
            other, _ = put(second, TEXT, document_id="mine", kv=KV)
            loads = second.client.control.GetLoads(h.control.GetLoadsRequest())
            self.assertEqual(loads.store_hits, 1)
            want, got = generate(first, question(["doc"])), generate(second, question(["mine"]))
            self.assertEqual(want.outputs[0].token_ids, got.outputs[0].token_ids)
            redis.kill()
            redis.wait()
            put(second, TEXT[:4000], document_id="later", kv=KV)  # goes on without it
            self.assertNotIn("not-to-be-seen", first.tail() + second.tail())
        finally:
            redis.kill()


class Keys(Case):
    def keys(self, text, mode=0o600):
        path = self.dir / "keys"
        path.write_text(text)
        os.chmod(path, mode)
        return path

    def with_keys(self, more=""):
        path = self.keys(f"{USER_A} a user\n{USER_B} b user # b\n{ADMIN} ops admin\n")
        return self.start(f'auth = {{ keys_file = "{path}"; {more} }};')

    def test_namespaces_share_nothing(self):
        """Paired: the same document and question; the same key hits, the other key misses."""
        d = self.with_keys()
        a, _ = put(d, TEXT, USER_A, document_id="doc", kv=KV)
        b, _ = put(d, TEXT, USER_B, document_id="doc", kv=KV)
        self.assertEqual((a.receipt.cached_tokens, b.receipt.cached_tokens), (0, 0))
        prompt = ask(text="Another prompt. " * 60 + QUESTION, kv=KV)
        first = generate(d, prompt, USER_A)
        self.assertEqual(first.usage.cached_tokens, 0)
        self.assertGreater(generate(d, prompt, USER_A).usage.cached_tokens, 0)  # same key: hit
        self.assertEqual(generate(d, prompt, USER_B).usage.cached_tokens, 0)  # other key: miss
        put(d, TEXT[:700], USER_A, document_id="private", kv=KV)
        self.refused(Code.NOT_FOUND, "private", get, d, "private", USER_B)
        self.refused(Code.NOT_FOUND, "private", generate, d, question(["private"]), USER_B)
        self.assertEqual(get(d, "private", USER_A).tokens, get(d, "private", USER_A).tokens)

    def test_the_shared_namespace_is_read_by_all_and_written_by_its_own(self):
        d = self.with_keys('shared_namespace = "ops";')
        document, _ = put(d, TEXT, ADMIN, document_id="common", kv=KV)
        answer = generate(d, question(["common"]), USER_A)
        self.assertEqual(answer.usage.cached_tokens, document.tokens)
        # Shown to all, changed by none of them.
        self.assertTrue(get(d, "common", USER_A).read_only)
        self.assertFalse(get(d, "common", ADMIN).read_only)
        for method, message in (
            (d.client.documents.DeleteDocument, documents.DeleteDocumentRequest(document_id="common")),
            (d.client.documents.PinDocument, documents.PinDocumentRequest(document_id="common", ttl_seconds=1)),
            (d.client.documents.PinDocument, documents.PinDocumentRequest(document_id="common")),
        ):
            self.refused(Code.PERMISSION_DENIED, "shared namespace", call, d, method, message, USER_A)
        for name in ("b-own", "z-own"):
            put(d, TEXT[:800], USER_A, document_id=name, kv=KV)
        put(d, TEXT[:800], ADMIN, document_id="z-own", kv=KV)  # hidden by A's
        listed, token = [], ""
        while not listed or token:
            request = documents.ListDocumentsRequest(page_size=1, page_token=token)
            page = call(d, d.client.documents.ListDocuments, request, USER_A)
            listed += [(x.document_id, x.read_only) for x in page.documents]
            token = page.next_page_token
        self.assertEqual(listed, [("b-own", False), ("common", True), ("z-own", False)])
        both = question(["common", "z-own"])
        self.assertGreaterEqual(generate(d, both, USER_A).usage.cached_tokens, document.tokens)
        prompt = ask(text="Only of A. " * 60, kv=KV)
        generate(d, prompt, USER_A)
        self.assertEqual(generate(d, prompt, ADMIN).usage.cached_tokens, 0)

    def test_without_a_key_nothing_but_health_and_reflection(self):
        d = self.with_keys()
        prompt = ask(text="Hello", kv=KV)
        self.refused(Code.UNAUTHENTICATED, "no API key", generate, d, prompt)
        self.refused(Code.UNAUTHENTICATED, "nobody has this key", generate, d, prompt, USER_A + "x")
        with self.assertRaises(h.grpc.RpcError) as caught:
            d.client.inference.Generate(prompt, metadata=[("authorization", "Basic abc")])
        self.assertEqual(caught.exception.code(), Code.UNAUTHENTICATED)
        flush = d.client.control.FlushCache
        self.refused(
            Code.PERMISSION_DENIED, "admin", call, d, flush, h.control.FlushCacheRequest(), USER_A
        )
        call(d, flush, h.control.FlushCacheRequest(), ADMIN)
        self.assertEqual(len(generate(d, prompt, USER_A).outputs), 1)

    def test_keys_are_read_again_on_sighup(self):
        d = self.with_keys()
        prompt = ask(text="Hello", kv=KV)
        generate(d, prompt, USER_A)
        self.keys(f"{USER_B} b user\n")
        d.process.send_signal(h.signal.SIGHUP)
        h.wait_until(lambda: "auth.keys_file applied=yes" in d.tail(), "a reload")
        self.refused(Code.UNAUTHENTICATED, "nobody", generate, d, prompt, USER_A)
        generate(d, prompt, USER_B)
        self.keys("broken\n")
        d.process.send_signal(h.signal.SIGHUP)
        h.wait_until(lambda: "go on with the old keys" in d.tail(), "a refused reload")
        generate(d, prompt, USER_B)

    def test_a_bad_keys_file_is_refused_with_its_line(self):
        for text, mode, words in (
            (f"{USER_A} a\n", 0o600, ":1: 2 words"),
            (f"\n{USER_A} a boss\n", 0o600, ':2: role "boss"'),
            ("short a user\n", 0o600, ":1: a key of 5 bytes"),
            (f"{USER_A} a/b user\n", 0o600, ":1: namespace"),
            (f"{USER_A} a user\n{USER_A} b user\n", 0o600, ":2: the key is there already"),
            ("# none\n", 0o600, "holds no key"),
            (f"{USER_A} a user\n", 0o644, "lets others at the keys"),
        ):
            with self.subTest(words=words):
                path = self.keys(text, mode)
                with self.assertRaises(AssertionError) as caught:
                    self.start(f'auth = {{ keys_file = "{path}"; }};')
                self.assertIn(words, str(caught.exception))
                self.assertNotIn(USER_A, str(caught.exception))


if __name__ == "__main__":
    h.main()
