"""What one key may do to the requests, uploads and memory of another, and which calls are for admins."""

import subprocess
import threading
import unittest

import harness as h
from harness import Code, ask, control, documents, inference
from test_documents import (
    ADMIN,
    DEMO,
    KV,
    QUESTION,
    TEXT,
    USER_A,
    USER_B,
    Case,
    call,
    generate,
    get,
    meta,
    put,
    question,
)


class Auth(Case):
    def with_keys(self, more=""):
        path = self.dir / "keys"
        path.write_text(f"{USER_A} a user\n{USER_B} b user\n{ADMIN} ops admin\n")
        path.chmod(0o600)
        return self.start(f'auth = {{ keys_file = "{path}"; }}; {more}')

    def long_stream(self, d, key, name):
        request = ask(text="Tell me. ", request_id=name, sampling={"max_tokens": 12000})
        stream = d.client.inference.GenerateStream(request, timeout=h.PATIENCE_S, metadata=meta(key))
        next(stream)
        return stream

    def abort(self, d, name, key):
        return call(
            d, d.client.inference.Abort, inference.AbortRequest(request_id=name), key
        )

    def test_request_ids_of_two_namespaces_do_not_meet(self):
        d = self.with_keys()
        of_a = self.long_stream(d, USER_A, "job")
        self.refused(Code.NOT_FOUND, "job", self.abort, d, "job", USER_B)
        self.refused(Code.NOT_FOUND, "job", self.abort, d, "job", ADMIN)
        of_b = self.long_stream(d, USER_B, "job")  # not ALREADY_EXISTS: B learns nothing of A's
        self.refused(
            Code.ALREADY_EXISTS, "job", generate, d, ask(text="x", request_id="job"), USER_A
        )
        self.abort(d, "job", USER_B)
        with self.assertRaises(h.grpc.RpcError) as caught:
            list(of_b)
        self.assertEqual(caught.exception.code(), Code.CANCELLED)
        next(of_a)  # goes on
        self.abort(d, "job", USER_A)
        with self.assertRaises(h.grpc.RpcError) as caught:
            list(of_a)
        self.assertEqual(caught.exception.code(), Code.CANCELLED)

    def test_some_calls_are_for_admins(self):
        d = self.with_keys()
        c = d.client.control
        for method, message in (
            (c.Drain, control.DrainRequest()),
            (c.FlushCache, control.FlushCacheRequest()),
            (c.SelfTestIsolation, control.SelfTestIsolationRequest()),
        ):
            with self.subTest(message=message.DESCRIPTOR.name):
                self.refused(Code.UNAUTHENTICATED, "no API key", call, d, method, message)
                self.refused(Code.PERMISSION_DENIED, "admin", call, d, method, message, USER_A)
        call(d, c.GetLoads, control.GetLoadsRequest(), USER_A)
        call(d, c.FlushCache, control.FlushCacheRequest(), ADMIN)

    def test_the_server_shows_that_namespaces_are_apart(self):
        d = self.with_keys()
        answer = call(
            d, d.client.control.SelfTestIsolation, control.SelfTestIsolationRequest(), ADMIN
        )
        self.assertTrue(answer.passed, answer.findings)
        self.assertEqual(len(answer.findings), 4)
        self.assertIn("another namespace does not find it, cached_tokens 0", answer.findings[1])
        other = self.start("kv = { sharing = false; };")
        answer = call(
            other, other.client.control.SelfTestIsolation, control.SelfTestIsolationRequest()
        )
        self.assertTrue(answer.passed, answer.findings)
        self.assertIn("kv.sharing is false", answer.findings[-1])

    def test_an_upload_is_refused_before_its_data(self):
        d = self.with_keys()
        started, sent = threading.Event(), []

        def parts():
            yield documents.PutDocumentRequest(header=documents.DocumentHeader(document_id="x"))
            started.wait(5)
            for _ in range(1000):
                sent.append(1)
                yield documents.PutDocumentRequest(data=b"x" * 60000)

        stream = d.client.documents.PutDocument(parts(), timeout=h.PATIENCE_S)
        with self.assertRaises(h.grpc.RpcError) as caught:
            next(stream)
        started.set()
        self.assertEqual(caught.exception.code(), Code.UNAUTHENTICATED)
        self.assertLess(len(sent), 1000)

    def test_check_config_names_what_is_wrong_with_files_of_secrets(self):
        keys = self.dir / "keys"
        keys.write_text("# fine\nshort a user\n")
        keys.chmod(0o600)
        config = self.dir / "check.conf"
        for settings, words in (
            (f'auth: {{ keys_file = "{keys}"; }};', f"{keys}:2: a key of 5 bytes"),
            (
                f'store: {{ redis = "unix:/r"; redis_login_file = "{keys}"; }};',
                f"{keys}: more than one line",
            ),
            (f'store: {{ redis_login_file = "{keys}"; }};', "store.redis names no server"),
        ):
            config.write_text('model: { dir = "/m"; };' + settings)
            done = subprocess.run(
                [h.daemon_binary(), "--config", str(config), "--check-config"],
                capture_output=True,
                text=True,
            )
            self.assertEqual(done.returncode, 2, done.stdout)
            self.assertIn(words, done.stderr)


class Uploads(Case):
    def cut_after(self, d, n_parts, name):
        """A client that goes away after some parts, without a half-close."""
        go = threading.Event()

        def parts():
            yield documents.PutDocumentRequest(
                header=documents.DocumentHeader(document_id=name, kv=KV)
            )
            for i in range(n_parts):
                yield documents.PutDocumentRequest(data=TEXT[i * 100 : i * 100 + 100].encode())
            go.wait(h.PATIENCE_S)

        stream = d.client.documents.PutDocument(parts(), timeout=h.PATIENCE_S)
        if n_parts > 0:
            while next(stream).progress.bytes_received < n_parts * 100:
                pass
        stream.cancel()
        go.set()

    def test_a_cut_upload_leaves_nothing(self):
        d = self.start()
        for n_parts in (0, 1, 7, 30):
            self.cut_after(d, n_parts, f"cut{n_parts}")
        h.wait_until(lambda: h.is_idle(d.client), "idle")
        self.assertEqual(d.client.control.GetLoads(control.GetLoadsRequest()).documents, 0)
        document, _ = put(d, TEXT[:3000], document_id="cut30", kv=KV)
        self.assertEqual(document.receipt.cached_tokens, 0)  # nothing of it had been read

    def test_progress_is_told_while_data_comes_and_while_it_is_read(self):
        d = self.start("engine = { prefill_tokens = 256; };")
        document, progress = put(d, TEXT, document_id="doc", part=500, kv=KV)
        received = [p.bytes_received for p in progress]
        self.assertEqual(received, sorted(received))
        self.assertEqual(received[-1], len(TEXT.encode()))
        self.assertEqual(progress[0].tokens_total, 0)
        done = [p.tokens_done for p in progress]
        self.assertEqual(done, sorted(done))
        self.assertGreater(len(set(done)), 2)
        self.assertEqual(progress[-1].tokens_total, document.tokens)

    def test_what_is_replaced_or_deleted_is_gone_from_the_store(self):
        store = self.dir / "store"
        d = self.start(f'store = {{ dir = "{store}"; }};')

        def core_files():
            return sum(1 for p in store.rglob("*") if p.is_file() and p.stat().st_size > 1000)

        put(d, TEXT, document_id="doc", kv=KV)
        put(d, TEXT, document_id="twin", kv=KV)  # the same entries: one file
        h.wait_until(lambda: core_files() == 1, "one core file")
        put(d, TEXT[:4000], document_id="doc", replace=True, kv=KV)
        h.wait_until(lambda: core_files() == 2, "the twin keeps the old one")
        delete = d.client.documents.DeleteDocument
        delete(documents.DeleteDocumentRequest(document_id="twin"))
        h.wait_until(lambda: core_files() == 1, "the last user of the old one has gone")
        delete(documents.DeleteDocumentRequest(document_id="doc"))
        h.wait_until(lambda: core_files() == 0, "no core file")

    def test_uploads_are_bounded_in_memory(self):
        d = self.start('documents = { memory = "1MiB"; max_bytes = "4MiB"; };')
        big = b"word " * (1 << 18)  # 1.25 MiB
        self.refused(Code.RESOURCE_EXHAUSTED, "documents.memory", put, d, big, part=65536)
        put(d, TEXT, document_id="fits", kv=KV)  # and what was refused is given back
        self.refused(Code.RESOURCE_EXHAUSTED, "documents.memory", put, d, big, part=65536)
        get(d, "fits")
        small = self.start('documents = { max_bytes = "2KiB"; max = 1; };')
        self.refused(Code.INVALID_ARGUMENT, "documents.max_bytes", put, small, TEXT)
        put(small, TEXT[:1500], document_id="one", kv=KV)
        self.refused(Code.RESOURCE_EXHAUSTED, "documents.max", put, small, TEXT[:1200])
        put(small, TEXT[:1200], document_id="one", replace=True, kv=KV)

    def test_a_pin_that_finds_no_room_is_told(self):
        config = self.dir / "small.conf"
        config.write_text('store = { memory = "0"; };')
        # What pins may not take, an eighth, has room for reading one more document.
        d = h.Daemon(DEMO, ["--config", str(config), "--set", "kv.memory=96MiB"])
        self.daemons.append(d)
        loads = d.client.control.GetLoads(control.GetLoadsRequest())
        pinned = 0
        for i in range(50):
            name = f"d{i}"
            try:
                document, _ = put(d, f"{i}. {TEXT}", document_id=name, kv=KV, pin_ttl_seconds=0)
            except h.grpc.RpcError as e:
                self.assertEqual(e.code(), Code.RESOURCE_EXHAUSTED, e.details())
                self.assertIn("pages", e.details())
                break
            pinned += document.receipt.pages
            self.assertTrue(document.HasField("pinned_until_unix_us"))
        self.assertTrue(0 < pinned < loads.pages_total)
        self.refused(Code.NOT_FOUND, name, get, d, name)
        put(d, f"not pinned. {TEXT}", document_id="other", kv=KV)
        for j in range(i):  # all that said so are
            self.assertEqual(get(d, f"d{j}").state, documents.DOCUMENT_STATE_READY)

    def test_a_question_keeps_the_mode_that_auto_became(self):
        """Short of auto_min_tokens when it was put, beyond it with the question."""
        d = self.start("kv = { auto_min_tokens = 1000; };")
        document, _ = put(d, TEXT[:3000], document_id="doc")
        self.assertLess(document.tokens, 1000)
        answer = generate(d, question(["doc"], text="\n\n" + "Why? " * 300 + QUESTION))
        self.assertGreater(answer.usage.prompt_tokens, 1000)
        self.assertEqual(answer.usage.cached_tokens, document.tokens)


if __name__ == "__main__":
    h.main()
