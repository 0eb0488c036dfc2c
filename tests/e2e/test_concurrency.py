"""A request's answer is its own: the same alone, in a crowd, exact beside compressed."""

import concurrent.futures
import sys
import threading

import harness as h
from harness import Code, ask, common, compressed, control, exact, inference, prompt_ids

sys.path.insert(0, str(h.SOURCE / "tools"))
import gsc_oracle  # noqa: E402

CROWD = 100


def kinds(i):
    """Request i of a mixed crowd: greedy and seeded, exact and compressed, short and long."""
    length = (4, 33, 90, 200, 300)[i % 5]
    sampling = {"max_tokens": 12 + i % 7}
    if i % 2:
        sampling.update(temperature=0.9, seed=1000 + i, top_p=0.95)
    kv = (exact(), compressed(), compressed(target_ratio=0.5, window=16))[i % 3]
    return ask(ids=prompt_ids(i, length), sampling=sampling, kv=kv)


def token_ids(answer):
    return [list(o.token_ids) for o in answer.outputs]


class Crowd(h.DaemonCase):
    def run_all(self, requests, threads=CROWD):
        """All at once, each on its own stream, two connections; in order of the requests."""
        gate = threading.Barrier(threads)

        def one(i):
            client = self.client if i % 2 else self.second
            if i < threads:
                gate.wait(h.PATIENCE_S)
            return h.Told(client.stream(requests[i]))

        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, range(len(requests))))

    def setUp(self):
        self.second = h.Client(self.daemon.target)
        self.addCleanup(self.second.close)

    def test_a_hundred_streams_answer_as_each_does_alone(self):
        requests = [kinds(i) for i in range(CROWD)]
        alone = [self.client.generate(r) for r in requests]
        crowd = self.run_all(requests)
        for i, (want, got) in enumerate(zip(alone, crowd)):
            with self.subTest(request=i):
                self.assertEqual([got.ids[0]], token_ids(want))
                self.assertEqual(got.text[0], want.outputs[0].text)
                self.assertEqual(got.final[0].receipt.recipe_id, want.receipt.recipe_id)
                self.assertEqual(got.final[0].receipt.cores, want.receipt.cores)

    def test_two_runs_of_a_crowd_agree_in_every_order(self):
        requests = [kinds(i) for i in range(40)]
        forward = self.run_all(requests, threads=40)
        backward = self.run_all(requests[::-1], threads=40)[::-1]
        for a, b in zip(forward, backward):
            self.assertEqual(a.ids, b.ids)

    def test_exact_and_compressed_mix_without_touching_each_other(self):
        ids = prompt_ids(77, 400)
        plain = ask(ids=ids, kv=exact())
        small = ask(ids=ids, kv=compressed())
        want_plain, want_small = self.client.generate(plain), self.client.generate(small)
        exact_id, small_id = want_plain.receipt.recipe_id, want_small.receipt.recipe_id
        self.assertNotEqual(exact_id, small_id)
        self.assertEqual(len(small_id), 64)
        for i, told in enumerate(self.run_all([plain, small] * 15, threads=30)):
            want = (want_plain, want_small)[i % 2]
            receipt = told.final[0].receipt
            self.assertEqual([told.ids[0]], token_ids(want))
            self.assertEqual(receipt.mode, want.receipt.mode)
            self.assertEqual(receipt.physical_entries, want.receipt.physical_entries)
        self.assertEqual(want_plain.receipt.physical_entries, want_plain.receipt.exact_entries)
        small = want_small.receipt
        self.assertLess(small.physical_entries, small.exact_entries * 0.8)
        self.assertLess(small.cores, small.compressed_tokens)
        self.assertAlmostEqual(small.ratio, small.physical_entries / small.exact_entries, places=6)

    def test_a_window_longer_than_the_prompt_is_exact(self):
        ids = prompt_ids(5, 300)
        kept = self.client.generate(ask(ids=ids, kv=compressed(window=400)))
        want = self.client.generate(ask(ids=ids, kv=exact()))
        self.assertEqual((kept.receipt.cores, kept.receipt.compressed_tokens), (0, 0))
        self.assertEqual(kept.receipt.physical_entries, want.receipt.physical_entries)
        self.assertEqual(token_ids(kept), token_ids(want))

    def test_a_smaller_ratio_keeps_fewer_entries(self):
        kept = []
        for ratio in (0.9, 0.6, 0.4, 0.2, 0.1):
            receipt = self.client.generate(
                ask(ids=prompt_ids(6, 400), kv=compressed(target_ratio=ratio))
            ).receipt
            self.assertLess(receipt.peak_entries, receipt.exact_entries)
            kept.append(receipt.physical_entries)
        self.assertEqual(kept, sorted(kept, reverse=True))
        self.assertLess(kept[-1], kept[0] * 0.6)

    def test_no_more_entries_than_a_budget_allows(self):
        for ratio in (0.5, 0.25):
            kv = compressed(target_ratio=ratio, sinks=0, budget=common.KV_BUDGET_PER_CHUNK)
            receipt = self.client.generate(ask(ids=prompt_ids(7, 400), kv=kv)).receipt
            self.assertGreater(receipt.compressed_tokens, 200)
            self.assertLessEqual(receipt.cores, receipt.compressed_tokens * ratio + 4)

    def test_auto_is_exact_for_short_prompts(self):
        self.assertGreater(self.client.info().auto_min_tokens, 40)
        kv = common.KvOptions(mode=common.KV_MODE_AUTO)
        answer = self.client.generate(ask(ids=prompt_ids(1, 40), kv=kv))
        self.assertEqual(answer.receipt.mode, common.KV_MODE_EXACT)

    def inspect(self, ids, **kv):
        request = control.InspectCacheRequest(kv=compressed(**kv))
        request.token_ids.ids.extend(ids)
        answer = self.client.control.InspectCache(request)
        self.assertEqual([t.id for t in answer.tokens], ids)
        return answer

    def check_layer(self, answer, chunk, layer):
        labels = list(layer.labels)
        self.assertEqual(len(labels), chunk.n_tokens)
        self.assertEqual(sorted(set(labels)), list(range(layer.n_cores)))
        firsts = [labels.index(c) for c in range(layer.n_cores)]
        self.assertEqual(firsts, sorted(firsts))
        for i in range(min(chunk.n_tokens, max(0, answer.n_sinks - chunk.pos0))):
            self.assertEqual(labels.count(labels[i]), 1, "a sink was merged")

    def test_inspect_tells_the_clusters_that_the_receipt_counts(self):
        answer = self.inspect(prompt_ids(9, 400))
        self.assertGreater(len(answer.chunks), 1)
        cores = tokens = end = 0
        for chunk in answer.chunks:
            self.assertEqual(chunk.pos0, end)
            end = chunk.pos0 + chunk.n_tokens
            text = b"".join(t.text for t in answer.tokens[chunk.pos0 : end])
            self.assertEqual(chunk.text, text)
            self.assertEqual(len(chunk.layers), answer.n_layers - len(answer.exact_layers))
            for layer in chunk.layers:
                self.check_layer(answer, chunk, layer)
                cores += layer.n_cores
                tokens += chunk.n_tokens
        self.assertEqual(cores, answer.receipt.cores)
        self.assertEqual(tokens, answer.receipt.compressed_tokens)

    def test_chunks_are_cut_where_the_reference_cuts_them(self):
        text = "One, two. Three; four! Five: 6.5 and 1,000? Yes.\n\nThe end\n" * 9
        by_text = self.client.inference.Tokenize(inference.TokenizeRequest(text=text.encode()))
        for ids in (prompt_ids(9, 400), list(by_text.token_ids)[:500]):
            for name in ("packed", "sentence", "clause", "fixed"):
                chunking = common.KvChunking.Value(f"KV_CHUNKING_{name.upper()}")
                answer = self.inspect(ids, chunking=chunking, chunk_min=16, chunk_target=32)
                texts = [t.text.decode(errors="replace") for t in answer.tokens]
                turns = [i in (0, 1, 2) for i in ids]
                classes = [gsc_oracle.class_at(texts, turns, i) for i in range(len(ids))]
                ends = gsc_oracle.chunk(
                    classes, turns, len(ids), len(ids), limits=(16, 32, 128), chunking=name
                )
                limit = gsc_oracle.compressed_limit(len(ids) - 1, 32, 64)
                self.assertEqual(
                    [c.pos0 + c.n_tokens for c in answer.chunks], [e for e in ends if e <= limit]
                )

    def test_a_reader_that_does_not_read_holds_nobody_up(self):
        lazy = self.second.stream(
            ask(ids=[0, 5, 6], sampling={"max_tokens": 400, "logprobs": 20}), timeout=300
        )
        next(lazy)
        for i in range(10):
            self.client.generate(ask(ids=[0, i + 3], kv=exact()), timeout=h.PATIENCE_S)
        told = h.Told(lazy)
        self.assertEqual(len(told.ids[0]), 400)

    def test_an_id_in_use_cannot_be_used_again(self):
        long = {"max_tokens": 400, "ignore_eos": True}
        call = self.second.stream(ask(ids=[0, 5], request_id="one", sampling=long))
        next(call)
        try:
            again = ask(ids=[0, 5], request_id="one", sampling=long)
            self.assert_refused(Code.ALREADY_EXISTS, again, "one")
        except AssertionError:
            if not list(call)[-1].HasField("final"):
                raise  # else: the first one had ended already
        h.Told(call)
        self.assertEqual(self.client.generate(ask(ids=[0, 5], request_id="one")).request_id, "one")


class SmallQueue(h.DaemonCase):
    """A daemon that runs two requests at once and lets one wait: the rest is told so."""

    POSITIONS = 16384
    ARGS = ("--max-seqs", "2", "--queue-max", "1")

    def test_a_full_queue_is_resource_exhausted_and_serves_again_after(self):
        long = ask(ids=[0, 7], sampling={"max_tokens": 16000})
        calls = []
        for n in (1, 2):  # one by one: two at once could be one too many for the queue
            calls.append(self.client.stream(long))
            next(calls[-1])
            h.wait_until(lambda n=n: self.client.info().running == n, f"{n} run")
        waiting = self.client.stream(ask(ids=[0, 8]))
        h.wait_until(lambda: self.client.info().waiting == 1, "one waits")
        self.assert_refused(Code.RESOURCE_EXHAUSTED, ask(ids=[0, 9]), "queue")
        calls[0].cancel()
        self.assertEqual(len(h.Told(waiting).ids[0]), 16)
        calls[1].cancel()


if __name__ == "__main__":
    h.main()
