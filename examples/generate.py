#!/usr/bin/env python3
"""Asks semanticached to continue a prompt: examples/generate.py 127.0.0.1:50051 "Once upon a time"

Needs grpcio, protobuf and the messages: protoc -I proto --python_out=. proto/semanticache/v1/*.proto
"""

import sys

import grpc
from semanticache.v1 import common_pb2, inference_pb2


def main(address, prompt):
    request = inference_pb2.GenerateRequest(
        text=prompt.encode(),
        sampling=common_pb2.SamplingParams(max_tokens=32, temperature=0),
        kv=common_pb2.KvOptions(mode=common_pb2.KV_MODE_COMPRESSED),
    )
    with grpc.insecure_channel(address) as channel:
        stream = channel.unary_stream(
            "/semanticache.v1.Inference/GenerateStream",
            request_serializer=inference_pb2.GenerateRequest.SerializeToString,
            response_deserializer=inference_pb2.GenerateStreamResponse.FromString,
        )
        for message in stream(request):
            if message.HasField("delta"):
                print(message.delta.text.decode(), end="", flush=True)
            elif message.HasField("final"):
                receipt = message.final.receipt
                print(f"\nkept {receipt.physical_entries} of {receipt.exact_entries} entries")


if __name__ == "__main__":
    main(*sys.argv[1:])
