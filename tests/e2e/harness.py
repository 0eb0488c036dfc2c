"""What the end-to-end tests share: the daemon as a process, and a client made from the protos.

The client uses stock grpcio and protobuf, nothing of this project's C code. SEMANTICACHED names the
binary. Exit status 77 means skipped: python3-grpcio, python3-protobuf or protoc is missing.
"""

import importlib
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest


def skip_all(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


try:
    import google.protobuf  # noqa: F401
    import grpc
except ImportError as missing:
    skip_all(f"{missing}; install python3-grpcio and python3-protobuf")

SOURCE = pathlib.Path(__file__).resolve().parents[2]
GOLDEN = SOURCE / "tests" / "golden"
FIXTURES = SOURCE.parent / "shared" / "fixtures"
STOCK_PROTOS = os.environ.get("SC_GRPC_PROTO_DIR", "/usr/share/grpc-proto")
# Sanitizers and shared machines are slow; a hang is still found.
PATIENCE_S = float(os.environ.get("SC_E2E_PATIENCE_S", "60"))


# --- Messages and stubs ---------------------------------------------------------------------------


def generate_messages(folder):
    if not shutil.which("protoc"):
        skip_all("protoc is missing; install protobuf-compiler")
    root = SOURCE / "proto"
    own = sorted(str(p.relative_to(root)) for p in root.glob("semanticache/v1/*.proto"))
    stock = [
        "grpc/health/v1/health.proto",
        "grpc/reflection/v1/reflection.proto",
        "grpc/reflection/v1alpha/reflection.proto",
    ]
    # The Python package `grpc` would hide generated modules of that name: ours live under `stock`.
    subprocess.run(["protoc", f"-I{SOURCE / 'proto'}", f"--python_out={folder}", *own], check=True)
    renamed = pathlib.Path(folder, "stock_protos")
    for name in stock:
        target = renamed / name.replace("grpc/", "stock/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(pathlib.Path(STOCK_PROTOS, name), target)
    subprocess.run(
        ["protoc", f"-I{renamed}", f"--python_out={folder}"]
        + [name.replace("grpc/", "stock/") for name in stock],
        check=True,
    )


_generated = tempfile.TemporaryDirectory(prefix="sc-e2e-")
generate_messages(_generated.name)
sys.path.insert(0, _generated.name)

common = importlib.import_module("semanticache.v1.common_pb2")
control = importlib.import_module("semanticache.v1.control_pb2")
documents = importlib.import_module("semanticache.v1.documents_pb2")
inference = importlib.import_module("semanticache.v1.inference_pb2")
health = importlib.import_module("stock.health.v1.health_pb2")
reflection_v1 = importlib.import_module("stock.reflection.v1.reflection_pb2")
reflection_v1alpha = importlib.import_module("stock.reflection.v1alpha.reflection_pb2")

Code = grpc.StatusCode


class Stub:
    """One method per rpc of a service: stub.Generate(request, timeout=..)."""

    def __init__(self, channel, module, service):
        descriptor = module.DESCRIPTOR.services_by_name[service]
        proto = sides_of(module, service)
        for method in descriptor.methods:
            client_streams, server_streams = proto[method.name]
            sides = ["stream" if s else "unary" for s in (client_streams, server_streams)]
            make = getattr(channel, "_".join(sides))
            setattr(
                self,
                method.name,
                make(
                    f"/{descriptor.full_name}/{method.name}",
                    request_serializer=method.input_type._concrete_class.SerializeToString,
                    response_deserializer=method.output_type._concrete_class.FromString,
                ),
            )


def sides_of(module, service):
    """Which sides of each method stream: Python's own descriptors do not tell."""
    from google.protobuf import descriptor_pb2

    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    found = next(s for s in file.service if s.name == service)
    return {m.name: (m.client_streaming, m.server_streaming) for m in found.method}


class Client:
    def __init__(self, target):
        options = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            # Each client its own connection: a shared one would hide connection bugs.
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self.channel = grpc.insecure_channel(target, options)
        self.inference = Stub(self.channel, inference, "Inference")
        self.control = Stub(self.channel, control, "Control")
        self.documents = Stub(self.channel, documents, "Documents")

    def health(self, method, message, **kwargs):
        """The stock services by their stock paths."""
        call = self.channel.unary_unary if method == "Check" else self.channel.unary_stream
        return call(
            f"/grpc.health.v1.Health/{method}",
            request_serializer=health.HealthCheckRequest.SerializeToString,
            response_deserializer=health.HealthCheckResponse.FromString,
        )(message, **kwargs)

    def raw(self, path, payload, stream=False, timeout=PATIENCE_S):
        call = self.channel.unary_stream if stream else self.channel.unary_unary
        answer = call(path)(payload, timeout=timeout)
        return list(answer) if stream else answer

    def info(self):
        return self.control.GetServerInfo(control.GetServerInfoRequest(), timeout=PATIENCE_S)

    def generate(self, request, timeout=PATIENCE_S):
        return self.inference.Generate(request, timeout=timeout)

    def stream(self, request, timeout=PATIENCE_S):
        return self.inference.GenerateStream(request, timeout=timeout)

    def close(self):
        self.channel.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# --- Requests and what comes back -----------------------------------------------------------------


def ask(ids=None, text=None, kv=None, sampling=None, **fields):
    """A request; greedy, and not ended by the end-of-text token, unless it says otherwise."""
    request = inference.GenerateRequest(**fields)
    if ids is not None:
        request.token_ids.ids.extend(ids)
    if text is not None:
        request.text = text if isinstance(text, bytes) else text.encode()
    chosen = {"temperature": 0.0, "ignore_eos": True, "max_tokens": 16, **(sampling or {})}
    for name, value in chosen.items():
        if isinstance(value, (list, tuple)):
            getattr(request.sampling, name).extend(value)
        elif isinstance(value, dict):
            getattr(request.sampling, name).update(value)
        elif value is not None:
            setattr(request.sampling, name, value)
    if kv is not None:
        request.kv.CopyFrom(kv)
    return request


def exact():
    return common.KvOptions(mode=common.KV_MODE_EXACT)


def compressed(**fields):
    """COMPRESSED with an epoch small enough for short contexts."""
    chosen = {"window": 32, "epoch": 64, "sinks": 4, "target_ratio": 0.25, **fields}
    return common.KvOptions(mode=common.KV_MODE_COMPRESSED, **chosen)


def prompt_ids(seed, length, vocab=256, first=3):
    """Random-looking, begin-of-text first; the same for the same arguments."""
    ids, state = [0], seed * 2654435761 + 12345
    while len(ids) < length:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        ids.append(first + (state >> 33) % (vocab - first))
    return ids[:length]


class Told:
    """A stream, gathered: ids and text of each output, its end, and the order of events."""

    def __init__(self, call):
        self.ids, self.text, self.final, self.progress, self.request_id = {}, {}, {}, [], ""
        for message in call:
            self.add(message)

    def add(self, message):
        self.request_id = self.request_id or message.request_id
        kind = message.WhichOneof("event")
        if kind == "progress":
            self.progress.append((message.progress.done, message.progress.total))
        elif kind == "delta":
            i = message.delta.index
            self.ids.setdefault(i, []).extend(message.delta.token_ids)
            self.text[i] = self.text.get(i, b"") + message.delta.text
        elif kind == "final":
            self.final[message.final.index] = message.final


# --- The daemon -----------------------------------------------------------------------------------


def daemon_binary():
    path = os.environ.get("SEMANTICACHED")
    if not path:
        skip_all("SEMANTICACHED does not name the daemon's binary")
    return path


def model_with_context(folder, source, positions):
    """A model directory like source that serves longer contexts: weights do not depend on it."""
    target = pathlib.Path(folder, f"{source.name}-{positions}")
    target.mkdir()
    for file in source.iterdir():
        if file.name != "config.json":
            (target / file.name).symlink_to(file)
    config = json.loads((source / "config.json").read_text())
    config["max_position_embeddings"] = positions
    (target / "config.json").write_text(json.dumps(config))
    return target


class Daemon:
    def __init__(self, model, args=(), target=None):
        self.log = tempfile.NamedTemporaryFile("w+", prefix="semanticached-", suffix=".log")
        listen = target or "127.0.0.1:0"
        command = [daemon_binary(), "--model", str(model), "--listen", listen]
        command += ["--kv-memory", "256MiB", "--drain-timeout", "300s", *args]
        command += shlex.split(os.environ.get("SC_E2E_DAEMON_ARGS", ""))
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.client = None
        try:
            self.port = self.wait_until_listening()
            self.target = target or f"127.0.0.1:{self.port}"
            self.client = Client(self.target)
            self.wait_until_serving()
        except BaseException:
            self.kill()
            raise

    def wait_until_listening(self):
        """The port, which the log tells: one that was free a moment ago may be another test's."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            for line in self.tail().splitlines():
                if " listening " in line and "port=" in line:
                    return int(line.split("port=")[1].split()[0])
            if self.process.poll() is not None:
                raise AssertionError(f"exited with {self.process.returncode}:\n{self.tail()}")
            time.sleep(0.02)
        raise AssertionError(f"not listening after {PATIENCE_S} s:\n{self.tail()}")

    def wait_until_serving(self):
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise AssertionError(f"exited with {self.process.returncode}:\n{self.tail()}")
            try:
                request = health.HealthCheckRequest()
                answer = self.client.health("Check", request, timeout=2, wait_for_ready=True)
                if answer.status == health.HealthCheckResponse.SERVING:
                    return
            except grpc.RpcError:
                pass
            time.sleep(0.05)
        raise AssertionError(f"not serving after {PATIENCE_S} s:\n{self.tail()}")

    def tail(self, lines=40):
        text = pathlib.Path(self.log.name).read_text(errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    def wait(self, timeout=PATIENCE_S):
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {timeout} s:\n{self.tail()}") from None

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.terminate()
        try:
            return self.wait()
        finally:
            self.kill()

    def kill(self):
        if self.client is not None:
            self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


# --- Test cases -----------------------------------------------------------------------------------


def wait_until(true, what, timeout=PATIENCE_S):
    end = time.monotonic() + timeout
    while not true():
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.01)


def is_idle(client):
    """Nothing runs, and what the cache of prefixes gives back is all that was not free."""
    info = client.info()
    if info.running == 0 and info.waiting == 0 and info.pages_free < info.pages_total:
        try:
            client.control.FlushCache(control.FlushCacheRequest(), timeout=PATIENCE_S)
        except grpc.RpcError as e:
            if e.code() not in (Code.PERMISSION_DENIED, Code.UNAVAILABLE):
                raise
        info = client.info()
    return info.running == 0 and info.waiting == 0 and info.pages_free == info.pages_total


class DaemonCase(unittest.TestCase):
    """One daemon for the class. After each test it must be idle, leak no page, and still answer."""

    MODEL = GOLDEN / "llama31"
    POSITIONS = None  # a longer context than the model's own
    ARGS = ()

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory(prefix="sc-e2e-model-")
        cls.addClassCleanup(cls.folder.cleanup)
        model = cls.MODEL
        if cls.POSITIONS:
            model = model_with_context(cls.folder.name, model, cls.POSITIONS)
        cls.daemon = Daemon(model, cls.ARGS)
        cls.addClassCleanup(cls.end_daemon)
        cls.client = cls.daemon.client
        cls.probe = ask(ids=[0, 20, 30, 40], kv=exact())
        cls.probe_ids = list(cls.client.generate(cls.probe).outputs[0].token_ids)

    @classmethod
    def end_daemon(cls):
        status = cls.daemon.stop()
        if status != 0:
            raise AssertionError(f"daemon ended with status {status}:\n{cls.daemon.tail()}")

    def tearDown(self):
        self.assertIsNone(self.daemon.process.poll(), self.daemon.tail())
        self.assert_idle()
        answer = self.client.generate(self.probe)
        self.assertEqual(list(answer.outputs[0].token_ids), self.probe_ids)

    def assert_idle(self, timeout=10):
        try:
            wait_until(lambda: is_idle(self.client), "idle, all pages free", timeout)
        except AssertionError as e:
            raise AssertionError(f"{e}\n{self.client.info()}\n{self.daemon.tail()}") from None

    def or_skip(self, call, request):
        """The answer; skips, visibly, where the server says that it does not do this yet."""
        try:
            return call(request, timeout=PATIENCE_S)
        except grpc.RpcError as e:
            if e.code() != Code.UNIMPLEMENTED:
                raise
            return self.skipTest(e.details())

    def assert_refused(self, code, request, *words, call=None):
        with self.assertRaises(grpc.RpcError) as caught:
            (call or self.client.generate)(request)
        error = caught.exception
        self.assertEqual(error.code(), code, error.details())
        for word in words:
            self.assertIn(word, error.details())
        return error.details()


def main():
    daemon_binary()
    program = unittest.main(verbosity=2, exit=False)
    result = program.result
    if result.testsRun and len(result.skipped) == result.testsRun:
        sys.exit(77)
    sys.exit(not result.wasSuccessful())
