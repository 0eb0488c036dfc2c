"""llama-server as another server to measure: started with a GGUF file, asked over its own HTTP interface."""

import http.client
import json
import os
import socket
import subprocess
import time

from serving.client import Answer

# Eight slots that share one cache, prompts kept in host memory, flash attention where it helps.
COMMON = ["-np", "8", "-c", "32768", "--kv-unified", "-fa", "auto", "--cache-reuse", "32"]
# As it comes; in steps as small as ours, so that others wait less; and one after the other, which always meet a
# prefix where it is.
SETTINGS = {"-np 8": COMMON, "-np 8 -b 64": [*COMMON, "-b", "64", "-ub", "64"], "-np 1": [*COMMON, "-np", "1"]}


class Server:
    def __init__(self, bench, model, options):
        with socket.create_server(("127.0.0.1", 0)) as s:
            self.port = s.getsockname()[1]
        threads = str(os.cpu_count())
        self.log = open(bench.folder / f"llama-{self.port}.log", "w")
        self.process = subprocess.Popen(
            [bench.args.llama_server, "-m", model, "--host", "127.0.0.1", "--port", str(self.port),
             "-t", threads, "-tb", threads, *options, *bench.args.llama_options],
            stdout=self.log, stderr=subprocess.STDOUT)

    def __enter__(self):
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", "/health")
                if connection.getresponse().status == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        self.__exit__()
        raise AssertionError(f"llama-server does not serve: {open(self.log.name).read()[-2000:]}")

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def ask(self, ids, n_tokens):
        request = {"prompt": ids, "n_predict": n_tokens, "temperature": 0, "ignore_eos": True, "stream": True,
                   "cache_prompt": True}
        answer, last = Answer(), None
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        begin = time.monotonic()
        connection.request("POST", "/completion", json.dumps(request), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise AssertionError(f"llama-server: {response.status} {response.read()[:500]}")
        for line in response:
            now = time.monotonic()
            if not line.startswith(b"data: "):
                continue
            message = json.loads(line[6:])
            if message.get("stop"):
                answer.final = message
                break
            if last is None:
                answer.ttft = now - begin
            else:
                answer.gaps.append(now - last)
            last = now
        connection.close()
        if answer.ttft is None: # one token only, which came with the end
            answer.ttft = now - begin
        return answer


def servers(bench):
    """Names and servers, one running at a time."""
    for model in bench.args.llama_model:
        for name, options in SETTINGS.items():
            with Server(bench, model, options) as server:
                yield f"llama-server {model.stem.split('-')[-1]} {name}", server
