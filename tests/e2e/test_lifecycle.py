"""The daemon as a process: start, drain, stop, and what a drain must not lose."""

import concurrent.futures
import ctypes
import os
import pathlib
import tempfile
import time
import unittest

import harness as h
from harness import Code, ask, control, health, prompt_ids

NOT_SERVING = health.HealthCheckResponse.NOT_SERVING


class Lifecycle(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="sc-e2e-model-")
        self.addCleanup(folder.cleanup)
        self.model = h.model_with_context(folder.name, h.GOLDEN / "llama31", 65536)
        self.daemon = h.Daemon(self.model)
        self.addCleanup(self.daemon.kill)
        self.client = self.daemon.client

    def started(self, request):
        call = self.client.stream(request, timeout=600)
        told = h.Told([])
        for message in call:
            told.add(message)
            if message.WhichOneof("event") == "delta":
                return call, told
        self.fail("no delta came")

    def code_of(self, call):
        try:
            call()
        except h.grpc.RpcError as e:
            return e.code()
        return Code.OK

    def drain_under_load(self, begin_drain):
        """Streams that run when a drain begins end as they would have; new ones are refused."""
        requests = [
            ask(ids=prompt_ids(i, 20), sampling={"max_tokens": 3000, "temperature": 1.0, "seed": i})
            for i in range(6)
        ]
        watch = self.client.health("Watch", health.HealthCheckRequest(), timeout=600)
        self.assertEqual(next(watch).status, health.HealthCheckResponse.SERVING)
        running = [self.started(r) for r in requests]
        begin_drain()
        self.assertEqual(next(watch).status, NOT_SERVING)
        refused = self.code_of(lambda: self.client.generate(ask(ids=[0, 5]), timeout=30))
        self.assertEqual(refused, Code.UNAVAILABLE)

        def finish(pair):
            call, told = pair
            for message in call:
                told.add(message)
            return told

        with concurrent.futures.ThreadPoolExecutor(len(running)) as pool:
            ends = list(pool.map(finish, running))
        self.assertEqual(self.daemon.wait(), 0, self.daemon.tail())
        again = h.Daemon(self.model)
        self.addCleanup(again.kill)
        for request, told in zip(requests, ends):
            want = again.client.generate(request, timeout=600)
            self.assertEqual(told.ids[0], list(want.outputs[0].token_ids))
            self.assertIn(0, told.final, "the stream ended without its final message")
        self.assertEqual(again.stop(), 0, again.tail())

    def test_sigterm_loses_no_running_stream(self):
        self.drain_under_load(self.daemon.terminate)

    def test_the_drain_call_does_what_sigterm_does(self):
        def drain():
            answer = self.client.control.Drain(control.DrainRequest(timeout_ms=500_000))
            self.assertEqual(answer.running + answer.waiting, 6)

        self.drain_under_load(drain)

    def test_a_drain_timeout_ends_what_still_runs(self):
        call, _ = self.started(ask(ids=[0, 5], sampling={"max_tokens": 60000}))
        start = time.monotonic()
        self.client.control.Drain(control.DrainRequest(timeout_ms=300))
        code = self.code_of(lambda: list(call))
        self.assertEqual(code, Code.UNAVAILABLE)
        self.assertEqual(self.daemon.wait(20), 0, self.daemon.tail())
        self.assertGreater(time.monotonic() - start, 0.25)

    def test_a_second_sigterm_stops_at_once(self):
        call, _ = self.started(ask(ids=[0, 5], sampling={"max_tokens": 60000}))
        watch = self.client.health("Watch", health.HealthCheckRequest(), timeout=600)
        next(watch)
        self.daemon.terminate()
        self.assertEqual(next(watch).status, NOT_SERVING)
        self.assertIsNone(self.daemon.process.poll(), "it did not wait for the stream")
        self.daemon.terminate()
        self.daemon.wait(10)
        self.assertGreaterEqual(self.daemon.process.returncode, 0, "killed by the signal itself")
        self.assertIn(self.code_of(lambda: list(call)), (Code.UNAVAILABLE, Code.CANCELLED))

    def test_an_idle_daemon_ends_at_once(self):
        start = time.monotonic()
        self.assertEqual(self.daemon.stop(), 0, self.daemon.tail())
        self.assertLess(time.monotonic() - start, 10)

    def test_a_second_daemon_on_the_same_port_refuses_to_start(self):
        self.assert_does_not_start(self.model, self.daemon.target, str(self.daemon.port))

    def assert_does_not_start(self, model, listen, *words):
        import subprocess

        done = subprocess.run(
            [h.daemon_binary(), "--model", str(model), "--listen", listen],
            capture_output=True,
            text=True,
            timeout=h.PATIENCE_S,
        )
        self.assertGreater(done.returncode, 0, "must end with an error of its own, not a signal")
        for word in words:
            self.assertIn(word, done.stdout + done.stderr)

    def test_a_model_that_is_not_there_is_named(self):
        self.assert_does_not_start("/no/such/model", "127.0.0.1:0", "/no/such/model")

    def test_a_model_that_is_cut_off_is_refused(self):
        whole = (self.model / "model.safetensors").read_bytes()
        (self.model / "model.safetensors").unlink()
        (self.model / "model.safetensors").write_bytes(whole[: len(whole) // 2])
        self.assert_does_not_start(self.model, "127.0.0.1:0", "model.safetensors")


class StoppedThread:
    """One thread of a process, held by ptrace: the nearest to a rank that hangs."""

    SEIZE, INTERRUPT, DETACH, WALL = 0x4206, 0x4207, 17, 0x40000000

    def __init__(self, tid):
        self.tid = tid
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.ptrace.argtypes = [ctypes.c_long] * 4

    def trace(self, request):
        if self.libc.ptrace(request, self.tid, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    def __enter__(self):
        self.trace(self.SEIZE)
        self.trace(self.INTERRUPT)
        os.waitpid(self.tid, self.WALL)

    def __exit__(self, *_):
        self.trace(self.DETACH)


class StuckRank(h.DaemonCase):
    ARGS = ("--tensor-parallel", "2", "--set", "engine.stuck_after=1s")

    def rank_thread(self, rank):
        for task in pathlib.Path(f"/proc/{self.daemon.process.pid}/task").iterdir():
            if (task / "comm").read_text().strip() == f"sc-rank-{rank}":
                return int(task.name)
        return self.fail(f"no thread of rank {rank}")

    def state(self):
        request = health.HealthCheckRequest()
        return self.client.health("Check", request, timeout=h.PATIENCE_S).status

    def test_a_rank_that_hangs_is_not_healthy_until_it_goes_on(self):
        stopped = StoppedThread(self.rank_thread(1))
        try:
            stopped.__enter__()
        except PermissionError as e:
            self.skipTest(f"ptrace: {e}")
        try:
            self.assertEqual(self.state(), health.HealthCheckResponse.SERVING, "nothing to do yet")
            call = self.client.stream(self.probe)
            h.wait_until(lambda: self.state() == NOT_SERVING, "NOT_SERVING")
            late = self.code_of_a_call_with_a_deadline()
        finally:
            stopped.__exit__()
        self.assertEqual(late, Code.DEADLINE_EXCEEDED)
        self.assertEqual(h.Told(call).ids[0], self.probe_ids)
        h.wait_until(lambda: self.state() == health.HealthCheckResponse.SERVING, "SERVING")

    def code_of_a_call_with_a_deadline(self):
        with self.assertRaises(h.grpc.RpcError) as caught:
            self.client.generate(self.probe, timeout=0.5)
        return caught.exception.code()


if __name__ == "__main__":
    h.main()
