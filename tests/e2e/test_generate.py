"""What a request gets: tokens, text, ends, usage, log-probabilities; unary and streamed."""

import json
import math
import struct

import harness as h
from harness import ask, common, control, exact, inference, prompt_ids


class Generate(h.DaemonCase):
    def both(self, **kwargs):
        """The same request, unary and streamed: they must tell the same."""
        request = ask(**kwargs)
        unary = self.client.generate(request)
        told = h.Told(self.client.stream(request))
        self.assertEqual(set(told.final), {o.index for o in unary.outputs})
        for output in unary.outputs:
            final = told.final[output.index]
            self.assertEqual(told.ids.get(output.index, []), list(output.token_ids))
            self.assertEqual(told.text.get(output.index, b""), output.text)
            self.assertEqual(final.finish_reason, output.finish_reason)
            if request.sampling.HasField("seed"):
                self.assertEqual(output.seed, final.seed)
            self.assertEqual(final.HasField("stop_token_id"), output.HasField("stop_token_id"))
            self.assertEqual(final.stop_token_id, output.stop_token_id)
            self.assertEqual(final.stop_string, output.stop_string)
        return unary, told

    def test_streaming_tells_what_unary_tells(self):
        for seed in range(6):
            for sampling in ({}, {"temperature": 1.0, "seed": 7 + seed, "top_k": 50}):
                unary, told = self.both(
                    ids=prompt_ids(seed, 5 + 17 * seed), sampling={"max_tokens": 40, **sampling}
                )
                self.assertEqual(len(unary.outputs[0].token_ids), 40)
                self.assertEqual(unary.outputs[0].finish_reason, inference.FINISH_REASON_LENGTH)
                self.assertEqual(unary.usage.prompt_tokens, 5 + 17 * seed)
                self.assertEqual(unary.usage.completion_tokens, 40)
                self.assertEqual(told.progress[-1], (5 + 17 * seed, 5 + 17 * seed))
                self.assertEqual(told.progress, sorted(told.progress))

    def test_progress_is_left_out_on_request(self):
        told = h.Told(self.client.stream(ask(ids=prompt_ids(1, 60), prompt_progress=False)))
        self.assertEqual(told.progress, [])

    def test_the_first_and_the_last_message_name_the_request(self):
        messages = list(self.client.stream(ask(ids=[0, 9, 9], request_id="name-1")))
        self.assertEqual(messages[0].request_id, "name-1")
        self.assertEqual(messages[-1].request_id, "name-1")
        self.assertEqual(messages[-1].WhichOneof("event"), "final")
        made_up = self.client.generate(ask(ids=[0, 9, 9])).request_id
        self.assertTrue(made_up)

    def test_text_is_what_detokenize_makes_of_the_ids(self):
        output = self.client.generate(ask(text="Once upon a time", sampling={"max_tokens": 60}))
        ids = output.outputs[0].token_ids
        text = self.client.inference.Detokenize(inference.DetokenizeRequest(token_ids=ids)).text
        self.assertEqual(output.outputs[0].text, text)
        text.decode()

    def test_text_and_its_token_ids_are_the_same_prompt(self):
        text = b"the land and the water, on and on"
        tokens = self.client.inference.Tokenize(
            inference.TokenizeRequest(text=text, return_pieces=True)
        )
        self.assertEqual(tokens.token_ids[0], 0)
        self.assertEqual(b"".join(list(tokens.pieces)[1:]), text)
        bare = self.client.inference.Tokenize(
            inference.TokenizeRequest(text=text, add_special_tokens=False)
        )
        self.assertEqual(list(tokens.token_ids)[1:], list(bare.token_ids))
        by_text = self.client.generate(ask(text=text))
        by_ids = self.client.generate(ask(ids=tokens.token_ids))
        self.assertEqual(by_text.outputs[0].token_ids, by_ids.outputs[0].token_ids)
        self.assertEqual(by_text.usage.prompt_tokens, len(tokens.token_ids))

    def test_special_tokens_in_text_are_parsed_only_on_request(self):
        for parse, count in ((True, 1), (False, 4)):
            tokens = self.client.inference.Tokenize(
                inference.TokenizeRequest(
                    text=b"</s>", add_special_tokens=False, parse_special_tokens=parse
                )
            )
            self.assertEqual(len(tokens.token_ids), count)

    def test_a_stop_token_ends_the_output_and_is_named(self):
        free = list(self.client.generate(ask(ids=[0, 50, 60])).outputs[0].token_ids)
        stop = next(t for i, t in enumerate(free) if i >= 3 and t not in free[:i])
        at = free.index(stop)
        unary, _ = self.both(ids=[0, 50, 60], sampling={"stop_token_ids": [stop]})
        output = unary.outputs[0]
        self.assertEqual(output.finish_reason, inference.FINISH_REASON_STOP)
        self.assertEqual(output.stop_token_id, stop)
        self.assertEqual(list(output.token_ids)[:at], free[:at])
        self.assertLessEqual(len(output.token_ids), at + 1)
        # Not before min_tokens: then the token cannot even be chosen.
        later, _ = self.both(
            ids=[0, 50, 60], sampling={"stop_token_ids": [stop], "min_tokens": at + 4}
        )
        self.assertGreaterEqual(later.usage.completion_tokens, at + 4)

    def test_a_stop_string_is_cut_off_unless_wanted(self):
        letters = {i: 100.0 for i in range(69, 95)}  # text, not broken bytes
        sampling = {"logit_bias": letters, "max_tokens": 30}
        text = self.client.generate(ask(ids=[0, 50], sampling=sampling)).outputs[0].text
        self.assertGreaterEqual(len(text), 10)
        stop = text[5:8]
        at = text.index(stop)
        unary, _ = self.both(ids=[0, 50], sampling={**sampling, "stop": [stop.decode(), "@@@@"]})
        self.assertEqual(unary.outputs[0].text, text[:at])
        self.assertEqual(unary.outputs[0].finish_reason, inference.FINISH_REASON_STOP)
        self.assertEqual(unary.outputs[0].stop_string, stop)
        kept, _ = self.both(
            ids=[0, 50],
            sampling={**sampling, "stop": [stop.decode()], "include_stop_str_in_output": True},
        )
        self.assertEqual(kept.outputs[0].text, text[: at + 3])

    def test_a_seed_repeats_and_the_one_made_up_is_told(self):
        first = self.client.generate(ask(ids=[0, 5], sampling={"temperature": 1.0}))
        self.assertEqual(len(first.outputs), 1)
        seed = first.outputs[0].seed
        again, _ = self.both(ids=[0, 5], sampling={"temperature": 1.0, "seed": seed})
        self.assertEqual(again.outputs[0].token_ids, first.outputs[0].token_ids)
        others = {
            tuple(
                self.client.generate(ask(ids=[0, 5], sampling={"temperature": 1.0, "seed": s}))
                .outputs[0]
                .token_ids
            )
            for s in range(5)
        }
        self.assertEqual(len(others), 5)

    def test_n_outputs_come_from_one_prompt(self):
        unary, told = self.both(ids=[0, 8, 9], sampling={"temperature": 1.0, "seed": 3, "n": 3})
        self.assertEqual([o.index for o in unary.outputs], [0, 1, 2])
        self.assertEqual(len({tuple(o.token_ids) for o in unary.outputs}), 3)
        self.assertEqual(unary.usage.completion_tokens, 48)

    def test_a_bias_of_a_hundred_decides(self):
        unary, _ = self.both(ids=[0, 8], sampling={"logit_bias": {77: 100.0}})
        self.assertEqual(list(unary.outputs[0].token_ids), [77] * 16)

    def test_the_context_end_ends_the_output(self):
        limit = self.client.info().limits.max_context
        unary, _ = self.both(ids=prompt_ids(3, limit - 10), sampling={"max_tokens": None})
        self.assertEqual(unary.outputs[0].finish_reason, inference.FINISH_REASON_LENGTH)
        self.assertEqual(unary.usage.prompt_tokens, limit - 10)
        self.assertIn(unary.usage.completion_tokens, (10, 11))

    def test_timings_and_receipt_add_up(self):
        answer = self.client.generate(ask(ids=prompt_ids(5, 100), kv=exact()))
        self.assertGreaterEqual(answer.timings.total_us, answer.timings.ttft_us)
        self.assertGreaterEqual(answer.timings.ttft_us, answer.timings.prefill_us)
        receipt, layers = answer.receipt, self.model_info().n_layers
        self.assertEqual(receipt.mode, common.KV_MODE_EXACT)
        self.assertIn(receipt.logical_tokens, (115, 116))
        self.assertEqual(receipt.exact_entries, receipt.logical_tokens * layers)
        self.assertEqual(receipt.physical_entries, receipt.exact_entries)
        self.assertEqual((receipt.cores, receipt.compressed_tokens), (0, 0))
        self.assertEqual(receipt.ratio, 1.0)
        self.assertGreater(receipt.pages, 0)

    def model_info(self):
        return self.client.control.GetModelInfo(control.GetModelInfoRequest())

    def test_model_and_server_tell_of_themselves(self):
        model, info = self.model_info(), self.client.info()
        config = json.loads((self.MODEL / "config.json").read_text())
        self.assertEqual(model.arch, "llama")
        self.assertEqual(model.n_layers, config["num_hidden_layers"])
        self.assertEqual(model.n_kv_heads, config["num_key_value_heads"])
        self.assertEqual(list(model.eos_ids), config["eos_token_id"])
        self.assertEqual(len(model.fingerprint), 64)
        self.assertAlmostEqual(model.default_sampling.temperature, 0.6, places=6)
        self.assertEqual(info.state, control.SERVER_STATE_READY)
        self.assertEqual(len(info.ranks), info.tensor_parallel)
        self.assertGreater(info.pages_total, 0)
        loads = self.client.control.GetLoads(control.GetLoadsRequest())
        self.assertEqual(loads.pages_total, info.pages_total)
        self.assertEqual(loads.failed, 0)
        self.assertGreater(loads.finished, 0)


class Logprobs(h.DaemonCase):
    """Against the logits that Hugging Face transformers computed for this model."""

    def setUp(self):
        golden = json.loads((self.MODEL / "golden.json").read_text())
        raw = (self.MODEL / golden["logits_file"]).read_bytes()
        self.vocab = golden["vocab"]
        self.prompts = golden["prompts"]
        self.logits = struct.unpack(f"<{len(raw) // 4}f", raw)
        dtypes = self.client.control.GetModelInfo(control.GetModelInfoRequest())
        full = dtypes.weight_dtype == "f32" and dtypes.kv_dtype == "f32"
        # f32 differs by rounding only. bf16 keeps 8 bits of each weight and entry: logits of 10
        # move by a few hundredths, seldom by a tenth.
        self.tolerance = 2e-4 if full else 0.25

    def logprob(self, row, token):
        logits = self.logits[row * self.vocab : (row + 1) * self.vocab]
        top = max(logits)
        return logits[token] - top - math.log(math.fsum(math.exp(x - top) for x in logits))

    def test_score_gives_the_logprobs_of_the_reference(self):
        for prompt in self.prompts[1:]:
            ids, row = prompt["ids"], prompt["first_row"]
            request = inference.ScoreRequest(kv=exact(), top_logprobs=5)
            request.token_ids.ids.extend(ids)
            answer = self.or_skip(self.client.inference.Score, request)
            self.assertEqual([t.token_id for t in answer.tokens], ids[1:])
            want = [self.logprob(row + i, token) for i, token in enumerate(ids[1:])]
            for token, expected in zip(answer.tokens, want):
                self.assertAlmostEqual(token.logprob, expected, delta=self.tolerance)
                tops = [t.logprob for t in token.top]
                self.assertEqual(len(tops), 5)
                self.assertEqual(tops, sorted(tops, reverse=True))
            self.assertAlmostEqual(
                answer.sum_logprob, sum(t.logprob for t in answer.tokens), delta=1e-3
            )

    def test_the_likeliest_tokens_come_with_the_logprobs_of_the_reference(self):
        for prompt in self.prompts:
            for length in range(1, len(prompt["ids"]) + 1, 7):
                ids, row = prompt["ids"][:length], prompt["first_row"] + length - 1
                sampling = {"logprobs": 20, "max_tokens": 2}
                request = ask(ids=ids, kv=exact(), sampling=sampling)
                output = self.client.generate(request).outputs[0]
                self.assertEqual([t.token_id for t in output.logprobs], list(output.token_ids))
                first = output.logprobs[0]
                self.assertEqual(first.top[0].token_id, first.token_id)
                self.assertEqual(first.top[0].logprob, first.logprob)
                self.assertEqual(len({t.token_id for t in first.top}), 20)
                logprobs = [t.logprob for t in first.top]
                self.assertEqual(logprobs, sorted(logprobs, reverse=True))
                for top in first.top:
                    self.assertAlmostEqual(
                        top.logprob, self.logprob(row, top.token_id), delta=self.tolerance
                    )


class PreciseLogprobs(Logprobs):
    ARGS = ("--weight-dtype", "f32", "--kv-dtype", "f32")


class Log(h.DaemonCase):
    ARGS = ("--log-level", "debug")

    def logged(self):
        """Completion tokens by request id and index of the output."""
        lines = self.daemon.tail(10000).splitlines()
        ends = [line.split("request done ")[1] for line in lines if "request done " in line]
        values = [dict(v.split("=", 1) for v in end.split()) for end in ends]
        return {(v["id"], int(v["index"])): int(v["completion_tokens"]) for v in values}

    def test_each_output_has_a_line_of_its_own(self):
        # Seeds whose outputs end at different places.
        sampling = {"n": 4, "temperature": 1.5, "seed": 1, "max_tokens": 200, "ignore_eos": False}
        want = {}
        for kind in ("unary", "stream"):
            request = ask(ids=[0, 20, 30], kv=exact(), sampling=sampling, request_id=kind)
            if kind == "unary":
                ended = {o.index: len(o.token_ids) for o in self.client.generate(request).outputs}
            else:
                told = h.Told(self.client.stream(request))
                ended = {i: f.usage.completion_tokens for i, f in told.final.items()}
            self.assertGreater(len(set(ended.values())), 1)
            want.update({(kind, i): n for i, n in ended.items()})
        h.wait_until(lambda: len(self.logged().keys() & want.keys()) == len(want), "lines")
        self.assertEqual({k: n for k, n in self.logged().items() if k in want}, want)


if __name__ == "__main__":
    h.main()
