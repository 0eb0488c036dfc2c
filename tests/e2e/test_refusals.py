"""What a client does wrong gets one clear status, and costs the daemon nothing."""

import pathlib
import time

import harness as h
from harness import Code, ask, common, compressed, control, documents, exact, inference, prompt_ids

NAN = float("nan")

# (the name that the refusal must contain, the sampling fields)
BAD_SAMPLING = [
    ("temperature", {"temperature": -0.5}),
    ("temperature", {"temperature": 100.5}),
    ("temperature", {"temperature": NAN}),
    ("top_p", {"top_p": 0.0}),
    ("top_p", {"top_p": 1.25}),
    ("top_p", {"top_p": NAN}),
    ("top_k", {"top_k": -2}),
    ("top_k", {"top_k": 257}),
    ("min_p", {"min_p": -0.1}),
    ("min_p", {"min_p": 1.1}),
    ("repetition_penalty", {"repetition_penalty": 0.0}),
    ("repetition_penalty", {"repetition_penalty": 10.5}),
    ("repetition_penalty", {"repetition_penalty": NAN}),
    ("presence_penalty", {"presence_penalty": 2.5}),
    ("frequency_penalty", {"frequency_penalty": -2.5}),
    ("logit_bias", {"logit_bias": {256: 1.0}}),
    ("logit_bias", {"logit_bias": {-1: 1.0}}),
    ("logit_bias", {"logit_bias": {5: 101.0}}),
    ("logit_bias", {"logit_bias": {5: NAN}}),
    ("logit_bias", {"logit_bias": {i: 1.0 for i in range(1025)}}),
    ("stop", {"stop": ["x"] * 17}),
    ("stop", {"stop": [""]}),
    ("stop", {"stop": ["x" * 257]}),
    ("stop_token_ids", {"stop_token_ids": [3] * 65}),
    ("stop_token_ids", {"stop_token_ids": [256]}),
    ("stop_token_ids", {"stop_token_ids": [-1]}),
    ("logprobs", {"logprobs": 21}),
    ("prompt_logprobs", {"prompt_logprobs": 21}),
    ("min_tokens", {"min_tokens": 17, "max_tokens": 16}),
    ("max_tokens", {"max_tokens": 0}),
    ("n", {"n": 0}),
    ("n", {"n": 1 << 30}),
]

BAD_KV = [
    ("mode", {"mode": 99}),
    ("target_ratio", {"target_ratio": 0.0}),
    ("target_ratio", {"target_ratio": 1.5}),
    ("target_ratio", {"target_ratio": NAN}),
    ("similarity_threshold", {"similarity_threshold": -0.5}),
    ("similarity_threshold", {"similarity_threshold": 1.5}),
    ("prefill", {"prefill": 99}),
    ("metric", {"metric": 99}),
    ("seed_order", {"seed_order": 99}),
    ("bias", {"bias": 99}),
    ("representative", {"representative": 99}),
    ("chunking", {"chunking": 99}),
    ("budget", {"budget": 99}),
    ("labels", {"labels": 99}),
    ("window", {"window": 65537}),
    ("epoch", {"epoch": 0}),
    ("epoch", {"epoch": 4097}),
    ("chunk_min", {"chunk_min": 3}),
    ("chunk_target", {"chunk_target": 20}),
    ("chunk_max", {"chunk_max": 129}),
    ("generated_ratio", {"generated_ratio": 0.0}),
    ("generated_ratio", {"generated_ratio": NAN}),
    ("layer", {"exact_layers": common.LayerList(layers=[2])}),
]


class Refusals(h.DaemonCase):
    def refused_both(self, request, *words, code=Code.INVALID_ARGUMENT):
        """Unary and streamed: the same status, the same text."""
        unary = self.assert_refused(code, request, *words)
        streamed = self.assert_refused(code, request, call=lambda r: list(self.client.stream(r)))
        self.assertEqual(unary, streamed)

    def test_every_bad_sampling_field_is_named(self):
        for name, fields in BAD_SAMPLING:
            with self.subTest(name=name, fields=str(fields)[:60]):
                self.refused_both(ask(ids=[0, 5], sampling=fields), name)

    def test_every_bad_kv_field_is_named(self):
        for name, fields in BAD_KV:
            with self.subTest(name=name, fields=str(fields)[:60]):
                kv = compressed()
                kv.MergeFrom(common.KvOptions(**fields))
                self.refused_both(ask(ids=[0, 5], kv=kv), name)

    def test_a_request_without_a_prompt_says_so(self):
        self.refused_both(ask(), "prompt")

    def test_token_ids_are_checked(self):
        empty = ask()
        empty.token_ids.SetInParent()
        self.refused_both(empty, "token_ids")
        self.refused_both(ask(ids=[0, 256]), "token_ids", "256")
        self.refused_both(ask(ids=[0, -1]), "token_ids", "-1")
        self.refused_both(ask(ids=[0, 2**31 - 1]), "token_ids")

    def test_text_is_checked(self):
        self.refused_both(ask(text=b"good \xff bad"), "text", "UTF-8")
        self.refused_both(ask(text=b"cut \xe2\x82"), "text", "UTF-8")
        self.refused_both(ask(text=b"surrogate \xed\xa0\x80"), "text", "UTF-8")
        self.refused_both(ask(text=b"", add_special_tokens=False), "prompt")

    def test_messages_are_checked(self):
        request = ask()
        request.messages.SetInParent()
        self.refused_both(request, "messages")
        request.messages.messages.add(role="user", content=b"\xff")
        with self.assertRaises(h.grpc.RpcError) as caught:
            self.client.generate(request)
        # This model has no chat template; a daemon may say that first.
        self.assertIn(caught.exception.code(), (Code.INVALID_ARGUMENT, Code.FAILED_PRECONDITION))
        self.assertRegex(caught.exception.details(), "messages|chat template")

    def test_request_ids_are_checked(self):
        self.refused_both(ask(ids=[0], request_id="x" * 129), "request_id")
        self.refused_both(ask(ids=[0], request_id="tab\t"), "request_id")
        self.refused_both(ask(ids=[0], request_id="gr\u00fcn"), "request_id")

    def test_a_prompt_longer_than_the_context_is_a_failed_precondition(self):
        limit = self.client.info().limits.max_context
        code = Code.FAILED_PRECONDITION
        self.refused_both(ask(ids=prompt_ids(1, limit + 1)), str(limit), code=code)
        self.refused_both(
            ask(ids=prompt_ids(1, 8), sampling={"max_tokens": limit}), str(limit), code=code
        )

    def test_other_calls_check_their_fields(self):
        stub = self.client.inference
        bad = Code.INVALID_ARGUMENT
        self.assert_refused(
            bad, inference.TokenizeRequest(text=b"\xc0\x80"), "text", call=stub.Tokenize
        )
        self.assert_refused(
            bad, inference.DetokenizeRequest(token_ids=[256]), "token_ids", call=stub.Detokenize
        )
        self.assert_refused(bad, inference.AbortRequest(), "request_id", call=stub.Abort)

    def test_score_checks_its_fields(self):
        stub, bad = self.client.inference, Code.INVALID_ARGUMENT
        score = inference.ScoreRequest()
        score.token_ids.ids.extend([0, 5, 6])
        self.or_skip(stub.Score, score)
        self.assert_refused(bad, inference.ScoreRequest(), "prompt", call=stub.Score)
        score = inference.ScoreRequest(top_logprobs=21)
        score.token_ids.ids.extend([0, 5, 6])
        self.assert_refused(bad, score, "top_logprobs", call=stub.Score)
        score = inference.ScoreRequest(first=3)
        score.token_ids.ids.extend([0, 5, 6])
        self.assert_refused(bad, score, "first", call=stub.Score)

    def test_a_request_nobody_knows_cannot_be_aborted(self):
        request = inference.AbortRequest(request_id="nobody")
        self.assert_refused(Code.NOT_FOUND, request, "nobody", call=self.client.inference.Abort)

    def test_bytes_that_are_no_message_are_refused(self):
        for payload in (b"\xff\xff\xff\xff", b"\x08", b"\x12\xff\xff\xff\xff\x7f", b"\x00" * 50):
            for path, stream in (
                ("/semanticache.v1.Inference/Generate", False),
                ("/semanticache.v1.Inference/GenerateStream", True),
                ("/semanticache.v1.Inference/Tokenize", False),
                ("/semanticache.v1.Control/GetServerInfo", False),
                ("/grpc.health.v1.Health/Check", False),
            ):
                with self.subTest(payload=payload[:8], path=path):
                    self.assert_refused(
                        Code.INVALID_ARGUMENT,
                        payload,
                        call=lambda p: self.client.raw(path, p, stream),
                    )

    def test_a_message_over_the_limit_is_refused_unread(self):
        limit = self.client.info().limits.max_message_bytes
        self.assertGreater(limit, 0)
        request = inference.TokenizeRequest(text=b"a" * (limit + 1))
        self.assert_refused(Code.RESOURCE_EXHAUSTED, request, call=self.client.inference.Tokenize)

    def test_long_messages_are_answered_packed_or_not(self):
        request = inference.TokenizeRequest(text=b"One two, three. " * 20_000)
        plain = self.client.inference.Tokenize(request, timeout=h.PATIENCE_S)
        self.assertGreater(len(plain.token_ids), 20_000)
        for method in (h.grpc.Compression.Gzip, h.grpc.Compression.Deflate):
            with self.subTest(method=method), self.packing_channel(method) as channel:
                tokenize = h.Stub(channel, inference, "Inference").Tokenize
                self.assertEqual(tokenize(request, timeout=h.PATIENCE_S), plain)

    def packing_channel(self, method):
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_send_message_length", -1)]
        return h.grpc.insecure_channel(self.daemon.target, options, compression=method)

    def peak_bytes(self):
        status = pathlib.Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def test_a_small_message_that_unpacks_to_a_large_one_is_refused_at_the_limit(self):
        size = 512 << 20
        # Field 15, unknown, of that many zeros.
        payload = b"\x7a" + bytes([size >> s & 127 | 128 for s in (0, 7, 14, 21)]) + b"\x02"
        payload += bytes(size)
        before = self.peak_bytes()
        with self.packing_channel(h.grpc.Compression.Gzip) as channel:
            call = channel.unary_unary("/semanticache.v1.Inference/Tokenize")
            self.assert_refused(
                Code.RESOURCE_EXHAUSTED, payload, "67108864", "unpacked", call=call
            )
        self.assertLess(self.peak_bytes() - before, 300 << 20)

    def test_what_would_make_a_reply_far_longer_than_its_request_is_refused(self):
        ids = inference.DetokenizeRequest(token_ids=[5] * (4194304 + 1))
        self.assert_refused(
            Code.INVALID_ARGUMENT, ids, "4194305", "4194304", call=self.client.inference.Detokenize
        )
        text = inference.TokenizeRequest(text=b"\n1" * 1_000_000, return_pieces=True)
        self.assert_refused(
            Code.INVALID_ARGUMENT,
            text,
            "return_pieces",
            "1048576",
            call=self.client.inference.Tokenize,
        )

    def test_unknown_methods_and_services_are_unimplemented_at_once(self):
        for path in (
            "/semanticache.v1.Inference/Nothing",
            "/semanticache.v1.Nothing/Generate",
            "/no.such.Service/Call",
            "/x",
        ):
            for stream in (False, True):
                with self.subTest(path=path, stream=stream):
                    start = time.monotonic()
                    self.assert_refused(
                        Code.UNIMPLEMENTED,
                        b"",
                        call=lambda p: self.client.raw(path, p, stream, timeout=10),
                    )
                    self.assertLess(time.monotonic() - start, 5)

    def test_what_is_not_there_yet_says_so_at_once(self):
        """Every rpc of the protos answers: a response, or a status that a client can read."""
        readable = {
            Code.UNIMPLEMENTED,
            Code.INVALID_ARGUMENT,
            Code.NOT_FOUND,
            Code.FAILED_PRECONDITION,
        }
        left_out = {"Drain", "PutDocument"}  # they would drain, or wait for us
        for module, stub in (
            (documents, self.client.documents),
            (control, self.client.control),
            (inference, self.client.inference),
        ):
            for service in module.DESCRIPTOR.services_by_name.values():
                for method in service.methods:
                    if method.name in left_out:
                        continue
                    with self.subTest(method=method.full_name):
                        message = method.input_type._concrete_class()
                        try:
                            answer = getattr(stub, method.name)(message, timeout=20)
                            if method.name == "GenerateStream":
                                list(answer)
                            if method.name == "SubscribeKvEvents":  # it would go on
                                next(answer)
                                answer.cancel()
                        except h.grpc.RpcError as e:
                            self.assertIn(e.code(), readable, f"{method.full_name}: {e.details()}")
                            self.assertTrue(e.details())

    def test_good_and_bad_requests_do_not_disturb_each_other(self):
        want = self.client.generate(ask(ids=[0, 9, 8], kv=exact())).outputs[0].token_ids
        for _ in range(20):
            self.assert_refused(Code.INVALID_ARGUMENT, ask(ids=[0, 999]), "token_ids")
            got = self.client.generate(ask(ids=[0, 9, 8], kv=exact())).outputs[0].token_ids
            self.assertEqual(got, want)


if __name__ == "__main__":
    h.main()
