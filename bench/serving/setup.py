"""What scenarios share: daemons, the client's program, models, where and when, and small statistics."""

import contextlib
import datetime
import json
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile

import harness

SOURCE = pathlib.Path(__file__).resolve().parents[2]
DEMO = SOURCE / "models" / "demo"
MODES = ("exact", "compressed")


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def median_interval(values):
    """Of the median, from order statistics: at least 95 % sure, whatever the distribution."""
    ordered, n = sorted(values), len(values)
    below, chance = 0, 0.5**n
    tail = chance
    while tail <= 0.025 and below < n // 2:
        below += 1
        chance *= (n - below + 1) / below
        tail += chance
    k = max(below - 1, 0)
    return ordered[k], ordered[n - 1 - k]


def markdown(head, rows):
    lines = ["|" + "|".join(head) + "|", "|" + "-|" * len(head)]
    return "\n".join(lines + ["|" + "|".join(str(cell) for cell in row) + "|" for row in rows])


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def process_status(pid, field):
    """A field of /proc/PID/status in bytes."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


def process_cpu_s(pid):
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def loads(daemon):
    return daemon.client.control.GetLoads(harness.control.GetLoadsRequest(), timeout=60)


class Bench:
    def __init__(self, args):
        self.args, self.seed = args, args.seed
        self.random = random.Random(args.seed)
        self.bin = args.build / "bin"
        self.exits = contextlib.ExitStack()

    def __enter__(self):
        self.folder = pathlib.Path(self.exits.enter_context(tempfile.TemporaryDirectory(prefix="sc-bench-")))
        return self

    def __exit__(self, *what):
        return self.exits.__exit__(*what)

    def made(self):
        commit = subprocess.run(
            ["git", "-C", SOURCE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True
        ).stdout.strip()
        daemon = subprocess.run([self.bin / "semanticached", "--version"], capture_output=True, text=True)
        return {
            "date": datetime.date.today().isoformat(),
            "cpu": f"{os.cpu_count()} CPUs of {cpu_model()}",
            "version": f"{daemon.stdout.split(chr(10))[0].strip()} ({commit})",
            "python": platform.python_version(),
            "kernel": platform.release(),
        }

    def llama_made(self):
        if not self.args.llama_server:
            return None
        said = subprocess.run([self.args.llama_server, "--version"], capture_output=True, text=True)
        version = next((line for line in (said.stderr + said.stdout).splitlines() if "version" in line), "")
        return {"version": version, "options": self.args.llama_options}

    def daemon(self, model=DEMO, heap_log=None, **settings):
        """One with these settings; a__b is the key a.b. It ends with the scenario, or with stop(). heap_log: a
        file for bench/heap_log.c to write."""
        args = [arg for key, value in settings.items() for arg in ("--set", f"{key.replace('__', '.')}={value}")]
        if heap_log is not None:
            preload = self.args.build / "lib" / "libbench-heap-log.so"
            os.environ.update(SC_HEAP_LOG=str(heap_log), LD_PRELOAD=str(preload))
        try:
            daemon = harness.Daemon(model, args)
        finally:
            if heap_log is not None:
                del os.environ["LD_PRELOAD"], os.environ["SC_HEAP_LOG"]
        self.exits.callback(daemon.kill)
        return daemon

    def model(self, shape):
        """Random weights: speed depends on shapes."""
        folder = self.args.models / f"bench-{shape}"
        if not (folder / "model.safetensors").exists():
            maker = SOURCE / "tools" / "make_bench_model.py"
            subprocess.run([sys.executable, maker, "--shape", shape, folder], check=True)
        return folder

    def tokens(self, n):
        """Random, so that nothing is found that was not put there."""
        return [self.random.randrange(10, 2300) for _ in range(n)]

    def semcache_command(self, daemon, command, *args):
        return [self.bin / "semcache", *command.split(), "--server", daemon.target, *map(str, args)]

    def semcache(self, daemon, command, *args):
        done = subprocess.run(
            self.semcache_command(daemon, command, "--json", *args), stdout=subprocess.PIPE, check=True
        )
        return json.loads(done.stdout)
