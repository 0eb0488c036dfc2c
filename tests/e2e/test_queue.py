"""Who runs next, who waits how long, and what a full server says; a store that hangs holds nobody up."""

import os
import pathlib
import shutil
import signal
import subprocess
import threading
import time
import unittest

import harness as h
from harness import Code, ask, control, prompt_ids
from test_documents import ADMIN, KV, QUESTION, TEXT, USER_A, USER_B, Case, generate, meta, put, question


class OneAtATime(h.DaemonCase):
    POSITIONS = 16384
    ARGS = ("--max-seqs", "1", "--queue-max", "8")

    def occupy(self):
        running = self.client.stream(ask(ids=[0, 7], sampling={"max_tokens": 16000}))
        next(running)
        return running

    def wait_for_queue(self, n):
        h.wait_until(lambda: self.client.info().waiting == n, f"{n} wait")

    def test_a_full_queue_says_when_to_try_again(self):
        running = self.occupy()
        waiting = [self.client.stream(ask(ids=[0, 8, i])) for i in range(8)]
        self.wait_for_queue(8)
        with self.assertRaises(h.grpc.RpcError) as caught:
            self.client.generate(ask(ids=[0, 9]))
        self.assertEqual(caught.exception.code(), Code.RESOURCE_EXHAUSTED)
        details = dict(caught.exception.trailing_metadata())["grpc-status-details-bin"]
        # google.rpc.Status { details: Any { RetryInfo { retry_delay: 1 s } } }
        name = b"type.googleapis.com/google.rpc.RetryInfo"
        self.assertTrue(details.endswith(name + b"\x12\x04\x0a\x02\x08\x01"), details)
        running.cancel()
        for call in waiting:
            self.assertEqual(len(h.Told(call).ids[0]), 16)

    def test_each_output_counts_as_a_request_against_what_may_run_and_wait(self):
        def loads():
            return self.client.control.GetLoads(control.GetLoadsRequest())

        before, running = loads(), self.occupy()
        waiting = self.client.stream(ask(ids=[0, 8], sampling={"n": 3}))
        self.wait_for_queue(3)
        now = loads()
        self.assertEqual((now.running, now.max_seqs), (1, 1))
        self.assertEqual((now.waiting, now.queue_max), (3, 8))
        self.assertEqual(now.submitted - before.submitted, 4)
        with self.assertRaises(h.grpc.RpcError) as caught:
            self.client.generate(ask(ids=[0, 9], sampling={"n": 6}))
        self.assertEqual(caught.exception.code(), Code.RESOURCE_EXHAUSTED)
        self.wait_for_queue(3)
        running.cancel()
        self.assertEqual({i: len(ids) for i, ids in h.Told(waiting).ids.items()}, {0: 16, 1: 16, 2: 16})
        h.wait_until(lambda: loads().finished - before.finished == 3, "three outputs have ended")
        now = loads()
        self.assertEqual(now.prompt_tokens - before.prompt_tokens, 4 * 2)
        self.assertEqual(now.submitted - before.submitted, 4 + 5)
        self.assertEqual(now.cancelled - before.cancelled, 1 + 5)

    def test_a_higher_priority_goes_first(self):
        running, order, lock = self.occupy(), [], threading.Lock()

        def follow(call, priority):
            h.Told(call)
            with lock:
                order.append(priority)

        threads = []
        for n, priority in enumerate((-5, 0, 100, 0, -100, 7), 1):
            # Long enough that our threads see their ends in the order of the ends.
            call = self.client.stream(ask(ids=[0, 8, n], priority=priority, sampling={"max_tokens": 1000}))
            self.wait_for_queue(n)
            threads.append(threading.Thread(target=follow, args=(call, priority)))
            threads[-1].start()
        running.cancel()
        for thread in threads:
            thread.join(h.PATIENCE_S)
        self.assertEqual(order, [100, 7, 0, 0, -5, -100])

    def test_a_deadline_counts_the_time_in_the_queue(self):
        running, begin = self.occupy(), time.monotonic()
        with self.assertRaises(h.grpc.RpcError) as caught:
            self.client.generate(ask(ids=[0, 9]), timeout=0.5)
        self.assertEqual(caught.exception.code(), Code.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - begin, 5)
        self.wait_for_queue(0)  # the server has let go of it, too
        next(running)
        running.cancel()

    def test_what_waits_can_be_cancelled_and_aborted(self):
        running = self.occupy()
        one = self.client.stream(ask(ids=[0, 8]))
        two = self.client.stream(ask(ids=[0, 9], request_id="two"))
        self.wait_for_queue(2)
        one.cancel()
        self.wait_for_queue(1)
        self.client.inference.Abort(h.inference.AbortRequest(request_id="two"), timeout=h.PATIENCE_S)
        with self.assertRaises(h.grpc.RpcError) as caught:
            h.Told(two)
        self.assertEqual(caught.exception.code(), Code.CANCELLED)
        self.wait_for_queue(0)
        running.cancel()


class Sharing(Case):
    def test_a_namespace_that_asks_much_lets_others_by(self):
        keys = self.dir / "keys"
        keys.write_text(f"{USER_A} a user\n{USER_B} b user\n{ADMIN} ops admin\n")
        keys.chmod(0o600)
        d = self.start(f'auth = {{ keys_file = "{keys}"; }}; engine = {{ max_seqs = 1; }};')
        order, lock, threads = [], threading.Lock(), []

        def one(name, key, n):
            generate(d, ask(text=f"{name} {n}", sampling={"max_tokens": 200}), key)
            with lock:
                order.append(name)

        def waiting():
            return d.client.control.GetLoads(control.GetLoadsRequest(), metadata=meta(ADMIN)).waiting

        for n in range(12):
            threads.append(threading.Thread(target=one, args=("a", USER_A, n)))
            threads[-1].start()
        h.wait_until(lambda: waiting() >= 8, "a's requests wait")
        one("b", USER_B, 0)
        behind = order.index("b")
        for thread in threads:
            thread.join(h.PATIENCE_S)
        self.assertLess(behind, 8, order)  # not behind all that came before it
        self.assertEqual(sorted(order), ["a"] * 12 + ["b"])

    def test_what_nobody_asks_for_is_dropped_after_its_time(self):
        d = self.start('kv = { prefix_ttl = "2s"; };')
        used, idle = (ask(ids=prompt_ids(n, 600, vocab=2000), kv=h.exact()) for n in (1, 2))
        generate(d, used)
        generate(d, idle)
        looked = time.monotonic()
        for _ in range(6):  # each look refreshes it
            time.sleep(0.6)
            cached, before, looked = generate(d, used).usage.cached_tokens, looked, time.monotonic()
            if looked - before < 2:  # else the machine stood still
                self.assertGreater(cached, 590)
        self.assertEqual(generate(d, idle).usage.cached_tokens, 0)

        def snapshots():
            return d.client.control.GetLoads(control.GetLoadsRequest()).prefix_snapshots

        self.assertGreater(snapshots(), 0)
        h.wait_until(lambda: snapshots() == 0, "all are dropped, though nobody asks")


@unittest.skipUnless(shutil.which("redis-server"), "redis-server is not installed")
class HungStore(Case):
    def setUp(self):
        super().setUp()
        path = self.dir / "redis.sock"
        self.redis = subprocess.Popen(
            ["redis-server", "--port", "0", "--unixsocket", str(path), "--save", ""],
            cwd=self.dir,
            stdout=subprocess.DEVNULL,
        )
        self.addCleanup(self.redis.wait)
        self.addCleanup(self.redis.kill)
        h.wait_until(path.exists, "redis listens")
        self.d = self.start(f'store = {{ redis = "unix:{path}"; }};')

    def test_reads_and_writes_that_hang_stall_no_stream(self):
        d = self.d
        put(d, TEXT, document_id="doc", kv=KV)
        time.sleep(0.5)
        d.client.control.FlushCache(control.FlushCacheRequest())
        self.redis.send_signal(signal.SIGSTOP)
        idle, done = [], threading.Event()
        stat = pathlib.Path(f"/proc/{d.process.pid}/stat")

        def worked():
            """Seconds of processor time of the daemon so far."""
            user, system = stat.read_text().rpartition(")")[2].split()[11:13]
            return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

        def follow():
            last = None
            for message in d.client.stream(ask(text="Tell me.", sampling={"max_tokens": 12000})):
                if message.HasField("delta"):
                    now = time.monotonic(), worked()
                    if last is not None:
                        idle.append((now[0] - last[0]) - (now[1] - last[1]))
                    last = now
                if done.is_set():
                    break

        reader = threading.Thread(target=follow)
        reader.start()
        h.wait_until(lambda: len(idle) > 10, "tokens come")
        # One that waits for the store is cancelled at once, not when the store's time is over.
        waiting = d.client.stream(question(["doc"], request_id="waits"))
        time.sleep(0.3)
        begin = time.monotonic()
        d.client.inference.Abort(h.inference.AbortRequest(request_id="waits"), timeout=h.PATIENCE_S)
        with self.assertRaises(h.grpc.RpcError) as caught:
            h.Told(waiting)
        self.assertEqual(caught.exception.code(), Code.CANCELLED)
        self.assertLess(time.monotonic() - begin, 1.0)
        # Another reads the document itself when that time is over; and a put is written behind.
        answer = generate(d, question(["doc"]))
        self.assertEqual(answer.usage.cached_tokens, 0)
        put(d, TEXT[:3000], document_id="other", kv=KV)
        done.set()
        reader.join(h.PATIENCE_S)
        # Redis' time limit is 2 s. Between two tokens the daemon reads documents, too, which a slow machine or a
        # sanitizer make take as long: what counts is how long it did nothing.
        self.assertLess(max(idle), 1.5)


if __name__ == "__main__":
    h.main()
