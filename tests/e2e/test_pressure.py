"""Too little memory, too many calls, connections that misbehave: slower or refused, never wrong."""

import concurrent.futures
import signal
import socket
import tempfile
import threading
import time
import unittest

import harness as h
from harness import Code, ask, compressed, control, exact, health, inference, prompt_ids

GENERATE = "/semanticache.v1.Inference/Generate"


class Crowd:
    def crowd_answers_as_alone(self, requests):
        alone = [self.client.generate(r) for r in requests]
        with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
            crowd = list(pool.map(lambda r: h.Told(self.client.stream(r, 300)), requests))
        for i, (want, told) in enumerate(zip(alone, crowd)):
            with self.subTest(request=i):
                self.assertEqual(told.ids[0], list(want.outputs[0].token_ids))
        needed = sum(told.final[0].receipt.pages for told in crowd)
        self.assertGreater(needed, 2 * self.client.info().pages_total, "there was no pressure")
        return sum(told.final[0].receipt.preemptions for told in crowd)


class LittleMemory(Crowd, h.DaemonCase):
    """About 200 pages: a handful of requests at a time."""

    POSITIONS = 32768
    ARGS = ("--kv-memory", "1MiB")

    def request(self, i):
        kv = exact() if i % 2 else compressed()
        sampling = {"max_tokens": 120 + i, "temperature": 1.0, "seed": i}
        return ask(ids=prompt_ids(i, 100 + 9 * i), kv=kv, sampling=sampling)

    def test_more_requests_than_fit_answer_as_alone(self):
        self.crowd_answers_as_alone([self.request(i) for i in range(40)])

    def test_what_can_never_fit_is_refused_and_what_fits_compressed_is_not(self):
        ids = prompt_ids(1, 20000)
        small = {"max_tokens": 4}
        start = time.monotonic()
        with self.assertRaises(h.grpc.RpcError) as caught:
            self.client.generate(ask(ids=ids, kv=exact(), sampling=small))
        self.assertIn(
            caught.exception.code(),
            (Code.RESOURCE_EXHAUSTED, Code.FAILED_PRECONDITION),
            caught.exception.details(),
        )
        self.assertLess(time.monotonic() - start, 20)
        fits = ask(ids=ids[:4000], kv=compressed(target_ratio=0.1), sampling=small)
        receipt = self.client.generate(fits).receipt
        self.assertLess(receipt.peak_entries, receipt.exact_entries / 2)


class HardlyMerged(Crowd, h.DaemonCase):
    """Special tokens are never merged: these prompts keep what their ratio promised to drop. So long that
    the ratio is what lets them in, and more of them than fit."""

    POSITIONS = 32768
    ARGS = ("--kv-memory", "4MiB")

    def test_requests_that_compress_worse_than_expected_are_put_off_and_answer_as_alone(self):
        requests = []
        for i in range(8):
            kv = compressed(target_ratio=0.05)
            ids = prompt_ids(i, 3500, vocab=3, first=0)
            requests.append(ask(ids=ids, kv=kv, sampling={"max_tokens": 100}))
        preempted = self.crowd_answers_as_alone(requests)
        self.assertGreater(preempted, 0)
        loads = self.client.control.GetLoads(control.GetLoadsRequest())
        self.assertGreaterEqual(loads.preempted, preempted)


class FewStreams(h.DaemonCase):
    POSITIONS = 65536
    ARGS = ("--set", "server.max_streams=4")

    def test_calls_over_the_limit_are_refused_and_the_rest_served(self):
        long = ask(ids=[0, 5], sampling={"max_tokens": 60000})
        # Each on its own connection: on one, gRPC itself would keep the fifth call back.
        clients = [h.Client(self.daemon.target) for _ in range(12)]
        calls = [client.stream(long, timeout=600) for client in clients]
        refused = running = 0
        for call in calls:
            try:
                next(call)
                running += 1
            except h.grpc.RpcError as e:
                self.assertEqual(e.code(), Code.RESOURCE_EXHAUSTED, e.details())
                refused += 1
        self.assertGreaterEqual(running, 1)
        self.assertLessEqual(running, 4)
        self.assertEqual(running + refused, 12)
        # A busy server is not a dead one.
        check = self.client.health("Check", health.HealthCheckRequest(), timeout=h.PATIENCE_S)
        self.assertEqual(check.status, health.HealthCheckResponse.SERVING)
        for client, call in zip(clients, calls):
            call.cancel()
            client.close()
        h.wait_until(self.serves, "calls are taken again")

    def serves(self):
        try:
            return self.client.info().running == 0
        except h.grpc.RpcError as e:
            self.assertEqual(e.code(), Code.RESOURCE_EXHAUSTED)
            return False


class Connections(h.DaemonCase):
    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.daemon.port), timeout=20)
        self.addCleanup(s.close)
        return s

    def test_bytes_that_are_no_http2_close_the_connection(self):
        for payload in (
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x00" * 1000,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xaa" * 200,
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 500,
        ):
            s = self.connect()
            try:
                s.sendall(payload)
                while s.recv(65536):
                    pass
            except ConnectionError:
                pass

    def test_idle_and_half_open_connections_hold_nobody_up(self):
        sockets = [self.connect() for _ in range(100)]
        for s in sockets[::2]:
            s.sendall(b"PRI * HTTP/2.0\r\n")
        for i in range(10):
            self.client.generate(ask(ids=[0, i + 3]))
        for s in sockets:
            s.close()

    def test_clients_that_come_and_go(self):
        for i in range(60):
            with h.Client(self.daemon.target) as client:
                client.generate(ask(ids=[0, 3 + i], sampling={"max_tokens": 1}))

    def test_a_call_without_a_message_is_refused(self):
        for path in (GENERATE, "/semanticache.v1.Inference/GenerateStream"):
            call = self.client.channel.stream_unary(path)
            with self.assertRaises(h.grpc.RpcError) as caught:
                call(iter([]), timeout=20)
            self.assertNotIn(caught.exception.code(), (Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE))

    def test_a_client_that_never_ends_its_message_costs_nothing_but_its_call(self):
        block = threading.Event()

        def silence():
            block.wait(20)
            yield b""

        with h.Client(self.daemon.target) as client:
            calls = [client.channel.stream_unary(GENERATE).future(silence()) for _ in range(20)]
            self.client.generate(ask(ids=[0, 4]))
            for call in calls:
                call.cancel()
            block.set()

    def test_compressed_messages_are_read(self):
        request = ask(ids=prompt_ids(1, 200))
        want = self.client.generate(request).outputs[0].token_ids
        got = self.client.inference.Generate(
            request, timeout=h.PATIENCE_S, compression=h.grpc.Compression.Gzip
        )
        self.assertEqual(got.outputs[0].token_ids, want)

    def test_a_message_that_grows_over_the_limit_is_refused(self):
        limit = self.client.info().limits.max_message_bytes
        bomb = inference.TokenizeRequest(text=b"a" * (limit * 2))
        call = self.client.inference.Tokenize
        with self.assertRaises(h.grpc.RpcError) as caught:
            call(bomb, timeout=h.PATIENCE_S, compression=h.grpc.Compression.Gzip)
        self.assertEqual(caught.exception.code(), Code.RESOURCE_EXHAUSTED)

    def test_metadata_over_the_limit_is_refused(self):
        # A client of its own: the server may close the whole connection.
        with h.Client(self.daemon.target) as client, self.assertRaises(h.grpc.RpcError) as caught:
            client.control.GetServerInfo(
                control.GetServerInfoRequest(), metadata=[("x-big", "x" * 100_000)], timeout=20
            )
        self.assertEqual(caught.exception.code(), Code.RESOURCE_EXHAUSTED)

    def test_a_reload_changes_nothing_for_clients(self):
        for _ in range(3):
            self.daemon.process.send_signal(signal.SIGHUP)
            answer = self.client.generate(self.probe)
            self.assertEqual(list(answer.outputs[0].token_ids), self.probe_ids)


class UnixSocket(unittest.TestCase):
    def test_a_unix_socket_is_served(self):
        folder = tempfile.TemporaryDirectory(prefix="sc-e2e-")
        self.addCleanup(folder.cleanup)
        path = f"{folder.name}/sc.sock"
        daemon = h.Daemon(h.GOLDEN / "llama31", target=f"unix:{path}")
        self.addCleanup(daemon.kill)
        answer = daemon.client.generate(ask(ids=[0, 5]))
        self.assertEqual(len(answer.outputs[0].token_ids), 16)
        check = daemon.client.health("Check", health.HealthCheckRequest(), timeout=10)
        self.assertEqual(check.status, health.HealthCheckResponse.SERVING)
        self.assertEqual(daemon.stop(), 0, daemon.tail())


if __name__ == "__main__":
    h.main()
