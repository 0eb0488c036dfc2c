"""Daemons, the client's `bench quality`, and what is kept of its results."""

import contextlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

SOURCE = pathlib.Path(__file__).resolve().parents[2]
PATIENCE_S = 60
FAILURES_KEPT = 400
NIAH = "passkey and NIAH"


def family(task):
    if task == "passkey" or task.startswith("niah"):
        return NIAH
    return "variable tracking" if task.startswith("variable_tracking") else "questions about facts"


class Daemon:
    """On a free port, one thread for each rank; ends with the context."""

    def __init__(self, build, model, threads=1, kv_memory="3GiB"):
        self.bin = pathlib.Path(build) / "bin"
        self.model = pathlib.Path(model)
        self.log = tempfile.NamedTemporaryFile("w+", prefix="semanticached-", suffix=".log")
        self.process = subprocess.Popen(
            [self.bin / "semanticached", "--model", model, "--listen", "127.0.0.1:0", "--tensor-parallel", "1", "--threads",
             str(threads), "--kv-memory", kv_memory], stdout=self.log, stderr=self.log)
        try:
            self.server = f"127.0.0.1:{self.wait()}"
        except BaseException:
            self.process.kill()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(PATIENCE_S)
        self.process.kill()

    def wait(self):
        end, port = time.monotonic() + PATIENCE_S, None
        while time.monotonic() < end:
            for line in pathlib.Path(self.log.name).read_text(errors="replace").splitlines():
                if " listening " in line and "port=" in line:
                    port = int(line.split("port=")[1].split()[0])
                if " ready model=" in line and port:
                    return port
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        sys.exit(f"semanticached is not ready:\n{pathlib.Path(self.log.name).read_text(errors='replace')}")

    def semcache(self, *args):
        done = subprocess.run([self.bin / "semcache", *args, "--server", self.server, "--timeout", "0", "--json"],
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"semcache {' '.join(map(str, args))}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def model_info(self):
        return self.semcache("info")["model"]

    def quality(self, suite, options, against_exact=True):
        args = ["bench", "quality", "--suite", suite, *options]
        form = self.model / "prompt_format.json"
        if form.exists():
            args += ["--prompt-format", form]
        return self.semcache(*args, *(["--against-exact"] if against_exact else []))

    def kept(self, document, options):
        """The share of entries that a prompt keeps when it has been read: with exact_then_compress, before the second token."""
        receipt = self.semcache("generate", "--prompt-file", document, "--max-tokens", "2", "--ignore-eos", *options)["receipt"]
        return receipt["physical_entries"] / receipt["exact_entries"]


def variant(row):
    """A row of which only the table is made."""
    return {k: v for k, v in row.items() if k not in ("cells", "documents")} | {"failures": row["failures"][:FAILURES_KEPT // 20]}


def difference(answers, samples=2000, seed=1):
    """Exact match less that of the exact cache, and its 95 % interval: documents drawn again with their answers."""
    documents = {}
    for a in answers:
        right, exact, n = documents.get(a["id"], (0, 0, 0))
        documents[a["id"]] = right + a["right"], exact + a["exact_right"], n + 1
    documents, rng = list(documents.values()), random.Random(seed)

    def share(chosen):
        return sum(r - e for r, e, _ in chosen) / sum(n for _, _, n in chosen)

    drawn = sorted(share(rng.choices(documents, k=len(documents))) for _ in range(samples))
    return [share(documents), drawn[int(0.025 * samples)], drawn[int(0.975 * samples) - 1]]


def of_documents(row, ids):
    """The row's tasks over these documents alone; their names are those of tasks, length and number."""
    tasks = {}
    for i in ids:
        share, right, asked = row["documents"][i]
        task, length, _ = i.rsplit("-", 2)
        t = tasks.setdefault((task, length), {"task": task, "asked": 0, "right": 0, "kept": {"entries": 0, "exact_entries": 0}})
        t["asked"] += asked
        t["right"] += right
        t["kept"]["entries"] += share * int(length) * asked
        t["kept"]["exact_entries"] += int(length) * asked
    return {"tasks": list(tasks.values())}


def pooled(result, member):
    """Counts over the tasks of which member(name) is true; None: there are none."""
    tasks = [t for t in result["tasks"] if member(t["task"])]
    if not tasks:
        return None
    entries, exact_entries = (sum(t["kept"][k] for t in tasks) for k in ("entries", "exact_entries"))
    sums = {"asked": sum(t["asked"] for t in tasks), "right": sum(t["right"] for t in tasks), "kept": entries / exact_entries}
    if "exact" in tasks[0]:
        tokens = sum(t["exact"]["tokens"] for t in tasks)
        sums |= {"exact_right": sum(t["exact"]["right"] for t in tasks), "both_right": sum(t["exact"]["both_right"] for t in tasks),
                 "kl": sum(t["exact"]["kl"] * t["exact"]["tokens"] for t in tasks) / tokens,
                 "agreement": sum(t["exact"]["agreement"] * t["exact"]["tokens"] for t in tasks) / tokens}
    return sums


def summary(result):
    """What is worth keeping: all but the answers, of which sums over documents and the paired difference stay."""
    sums = {}
    for a in result["answers"]:
        physical, exact, right, asked = sums.get(a["id"], (0, 0, 0, 0))
        sums[a["id"]] = physical + a["physical_entries"], exact + a["exact_entries"], right + a["right"], asked + 1
    short = {k: v for k, v in result.items() if k not in ("answers", "failures", "depths")}
    if "exact_right" in result["answers"][0]:
        short["difference"] = difference(result["answers"])
    # kept share, right, asked
    short["documents"] = {k: [round(p / e, 5), right, asked] for k, (p, e, right, asked) in sums.items()}
    short["failures"] = result["failures"][:FAILURES_KEPT]
    short["n_failures"] = len(result["failures"])
    return short
