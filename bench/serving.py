#!/usr/bin/env python3
"""Prefix sharing as a client sees it: times to first token, cold and warm, alone and together; stalls; and
how throughput grows with streams. Against a daemon that runs.

    protoc -I proto --python_out=build/py proto/semanticache/v1/*.proto
    PYTHONPATH=build/py bench/serving.py 127.0.0.1:50051 ttft     # an 8K prefix, exact and compressed
    PYTHONPATH=build/py bench/serving.py 127.0.0.1:50051 streams  # 1 against 16 streams
    PYTHONPATH=build/py bench/serving.py 127.0.0.1:50051 mixed    # 8 at once on one prefix; stalls

Prompts are random token ids, so nothing is found that was not put there. Needs grpcio.
"""

import argparse
import random
import threading
import time

import grpc
from semanticache.v1 import common_pb2, inference_pb2

EXACT, COMPRESSED = common_pb2.KV_MODE_EXACT, common_pb2.KV_MODE_COMPRESSED


def median(values):
    return sorted(values)[len(values) // 2]


class Client:
    def __init__(self, target, seed):
        self.random = random.Random(seed)
        self.call = grpc.insecure_channel(target).unary_stream(
            "/semanticache.v1.Inference/GenerateStream",
            request_serializer=inference_pb2.GenerateRequest.SerializeToString,
            response_deserializer=inference_pb2.GenerateStreamResponse.FromString,
        )

    def tokens(self, n):
        return [self.random.randrange(10, 2300) for _ in range(n)]

    def ask(self, ids, n, mode):
        """Seconds to the first token, gaps between tokens, and the final message."""
        request = inference_pb2.GenerateRequest(
            token_ids=common_pb2.TokenIds(ids=ids),
            sampling=common_pb2.SamplingParams(max_tokens=n, temperature=0, ignore_eos=True),
            kv=common_pb2.KvOptions(mode=mode),
            prompt_progress=False,
        )
        begin, first, last, gaps, final = time.monotonic(), None, None, [], None
        for message in self.call(request):
            now = time.monotonic()
            if message.HasField("delta"):
                first = first or now - begin
                if last:
                    gaps.append(now - last)
                last = now
            elif message.HasField("final"):
                final = message.final
        return first, gaps, final


def together(jobs):
    results = [None] * len(jobs)

    def run(i):
        results[i] = jobs[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results


def ttft(c):
    for name, mode in (("exact", EXACT), ("compressed", COMPRESSED)):
        prefix = c.tokens(8192)
        cold = c.ask(prefix + c.tokens(24), 8, mode)[0]
        warm = [c.ask(prefix + c.tokens(24), 8, mode) for _ in range(5)]
        w = median([a[0] for a in warm])
        print(
            f"{name}: TTFT cold {cold:.3f} s, warm {w:.4f} s, {cold / w:.0f} times lower; "
            f"{warm[-1][2].usage.cached_tokens} of {warm[-1][2].usage.prompt_tokens} cached, "
            f"ratio {warm[-1][2].receipt.ratio:.3f}"
        )


def streams(c):
    for name, mode in (("exact", EXACT), ("compressed", COMPRESSED)):
        rates = {}
        for n in (1, 16, 1, 16):
            jobs = [lambda p=c.tokens(32): c.ask(p, 24, mode) for _ in range(n)]
            gaps = [sum(a[1]) / len(a[1]) for a in together(jobs)]
            rates.setdefault(n, []).append(n / median(gaps))
        one, many = median(rates[1]), median(rates[16])
        print(f"{name}: {one:.1f} tokens/s alone, {many:.1f} with 16 streams: {many / one:.2f} times")


def mixed(c):
    prefix = c.tokens(2048)
    c.ask(prefix + c.tokens(8), 1, EXACT)
    answers = together([lambda p=prefix + c.tokens(32): c.ask(p, 16, EXACT) for _ in range(8)])
    times = sorted(a[0] for a in answers)
    print(f"8 at once on a warm 2K prefix: TTFT p50 {times[4]:.3f} s, max {times[7]:.3f} s")

    def late():
        time.sleep(0.3)
        return c.ask(c.tokens(2048), 1, EXACT)

    running, _ = together([lambda p=c.tokens(64): c.ask(p, 220, EXACT), late])
    print(f"longest stall of a stream while 2K tokens are read: {max(running[1]):.3f} s")
    prefix = c.tokens(8192)
    cold = c.ask(prefix + c.tokens(32), 1, EXACT)[0]
    warm = median([c.ask(prefix + c.tokens(32), 1, EXACT)[0] for _ in range(5)])
    print(f"8K prefix and 32 tokens: TTFT cold {cold:.2f} s, warm {warm:.4f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("target")
    parser.add_argument("what", choices=["ttft", "streams", "mixed"])
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    {"ttft": ttft, "streams": streams, "mixed": mixed}[args.what](Client(args.target, args.seed))


if __name__ == "__main__":
    main()
