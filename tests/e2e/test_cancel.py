"""Requests that end early (cancel, deadline, abort, a vanished client) leave nothing behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import harness as h
from harness import Code, ask, compressed, control, exact, inference, prompt_ids

POSITIONS = 65536


class EndedEarly(h.DaemonCase):
    POSITIONS = POSITIONS
    long_prompt = prompt_ids(1, 30000)

    def endless(self, **kwargs):
        return ask(ids=[0, 5, 6], sampling={"max_tokens": 60000}, **kwargs)

    def prefill(self, kv):
        return ask(ids=self.long_prompt, kv=kv, sampling={"max_tokens": 4})

    def begin(self, request, kind, timeout=600, client=None):
        """A stream of which one event of that kind has come."""
        call = (client or self.client).stream(request, timeout=timeout)
        for message in call:
            if message.WhichOneof("event") == kind:
                return call
        self.fail(f"the stream ended without {kind}")

    def assert_ends_soon(self, seconds=10):
        start = time.monotonic()
        self.assert_idle(timeout=seconds)
        return time.monotonic() - start

    def counted(self):
        """(cancelled, finished) so far."""
        loads = self.client.control.GetLoads(control.GetLoadsRequest())
        return loads.cancelled, loads.finished

    def assert_cancels(self, request, kind):
        cancelled, finished = self.counted()
        call = self.begin(request, kind)
        self.assertEqual(self.client.info().running, 1)
        call.cancel()
        self.assert_ends_soon()
        self.assertEqual(self.counted(), (cancelled + 1, finished), "it ran to its end")

    def test_cancel_while_tokens_come(self):
        for kv in (exact(), compressed()):
            self.assert_cancels(self.endless(kv=kv), "delta")

    def test_cancel_while_the_prompt_is_read(self):
        for kv in (exact(), compressed()):
            self.assert_cancels(self.prefill(kv), "progress")

    def test_cancel_before_the_first_event(self):
        for _ in range(20):
            call = self.client.stream(self.prefill(exact()))
            call.cancel()
        self.assert_ends_soon()

    def test_cancel_of_a_unary_call(self):
        call = self.client.inference.Generate.future(self.endless(), timeout=600)
        h.wait_until(lambda: self.client.info().running == 1, "it runs")
        call.cancel()
        self.assert_ends_soon()

    def test_cancel_of_many_at_once(self):
        calls = [self.begin(self.endless(), "delta") for _ in range(8)]
        calls += [self.client.stream(self.endless(), timeout=600) for _ in range(30)]
        for call in calls[::2] + calls[1::2]:
            call.cancel()
        self.assert_ends_soon(20)

    def test_a_deadline_ends_the_stream_and_the_work(self):
        for request in (self.endless(), self.prefill(exact())):
            start = time.monotonic()
            with self.assertRaises(h.grpc.RpcError) as caught:
                list(self.client.stream(request, timeout=0.4))
            self.assertEqual(caught.exception.code(), Code.DEADLINE_EXCEEDED)
            self.assertLess(time.monotonic() - start, 5)
            self.assert_ends_soon()

    def test_a_deadline_ends_a_unary_call_and_the_work(self):
        self.assert_refused(
            Code.DEADLINE_EXCEEDED, self.endless(), call=lambda r: self.client.generate(r, 0.4)
        )
        self.assert_ends_soon()

    def test_a_deadline_that_has_passed_does_nothing(self):
        before = self.client.info().steps
        for _ in range(10):
            with self.assertRaises(h.grpc.RpcError) as caught:
                self.client.generate(self.prefill(exact()), timeout=0)
            self.assertEqual(caught.exception.code(), Code.DEADLINE_EXCEEDED)
        self.assert_ends_soon()
        self.assertLess(self.client.info().steps - before, 50)

    def test_abort_ends_a_stream_with_cancelled(self):
        call = self.begin(self.endless(request_id="to-abort"), "delta")
        self.client.inference.Abort(inference.AbortRequest(request_id="to-abort"))
        with self.assertRaises(h.grpc.RpcError) as caught:
            list(call)
        self.assertEqual(caught.exception.code(), Code.CANCELLED)
        self.assert_ends_soon()

    def test_abort_ends_a_unary_call_with_cancelled(self):
        call = self.client.inference.Generate.future(
            self.endless(request_id="unary-abort"), timeout=600
        )
        h.wait_until(lambda: self.client.info().running == 1, "it runs")
        self.client.inference.Abort(inference.AbortRequest(request_id="unary-abort"))
        self.assertEqual(call.exception(h.PATIENCE_S).code(), Code.CANCELLED)

    def test_a_client_that_closes_its_connection(self):
        gone = h.Client(self.daemon.target)
        for _ in range(3):
            self.begin(self.endless(), "delta", client=gone)
        gone.close()
        self.assert_ends_soon()

    def test_a_client_that_is_killed(self):
        script = (
            "import harness as h, sys\n"
            f"c = h.Client('{self.daemon.target}')\n"
            "for m in c.stream(h.ask(ids=[0, 5], sampling={'max_tokens': 60000}), timeout=600):\n"
            "    if m.HasField('delta'): print('running', flush=True)\n"
        )
        here = os.path.dirname(os.path.abspath(__file__))
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=here)
        try:
            self.assertEqual(child.stdout.readline().strip(), b"running")
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
            child.stdout.close()
        self.assert_ends_soon()

    def test_others_go_on_while_some_are_cancelled(self):
        request = ask(ids=prompt_ids(8, 60), kv=exact(), sampling={"max_tokens": 200})
        want = list(self.client.generate(request).outputs[0].token_ids)
        got = []
        worker = threading.Thread(target=lambda: got.append(h.Told(self.client.stream(request))))
        worker.start()
        for _ in range(10):
            self.begin(self.endless(), "delta").cancel()
        worker.join(h.PATIENCE_S)
        self.assertEqual(got[0].ids[0], want)

    def test_a_long_prompt_does_not_stop_the_tokens_of_others(self):
        reader = self.begin(self.endless(), "delta")
        reading = self.begin(self.prefill(exact()), "progress")
        gaps, last = [], time.monotonic()
        for message in reader:
            if message.WhichOneof("event") == "delta":
                gaps.append(time.monotonic() - last)
                last = time.monotonic()
            if len(gaps) == 5:
                break
        reading.cancel()
        reader.cancel()
        self.assertEqual(len(gaps), 5)
        self.assertLess(max(gaps), h.PATIENCE_S / 2)


if __name__ == "__main__":
    h.main()
