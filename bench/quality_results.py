#!/usr/bin/env python3
"""Measures what docs/results/quality.md says, and writes it: exact match, KL and kept entries, tables and plots.

    bench/quality_results.py --build build/cpu                 the shipped model; 15 to 20 minutes on two quiet cores
    bench/quality_results.py --scale 4                         four times the documents
    bench/quality_results.py --peers peers.json                with what bench/quality_peers.py measured
    bench/quality_results.py --only none                       page and plots of the results that are there
    bench/quality_results.py --quick                           a minute; fails where compression is broken (ctest quality)

Starts its daemons itself, on free loopback ports, one for each of --jobs. Suites come from bench/quality_suites.py
with a fixed seed. Results go to OUT/results.json, the page to OUT.md and the plots to OUT/*.svg. Plots need
matplotlib, which is installed into BUILD/plots-venv where it is missing.
"""

import argparse
import concurrent.futures
import contextlib
import datetime
import json
import os
import pathlib
import platform
import queue
import subprocess
import sys
import tempfile
import time
import venv

sys.dont_write_bytecode = True
SOURCE = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(SOURCE / "bench"))
import quality_suites  # noqa: E402
from quality import tables  # noqa: E402
from quality.rows import ABLATIONS, BARE, EXACT, MAIN as ROWS, compressed, equal_ratio  # noqa: E402
from quality.runner import Daemon, summary, variant  # noqa: E402

MAIN = {"tasks": "passkey,niah_single,niah_multikey,niah_confusable,niah_multivalue,niah_multiquery,document_qa,two_hop,"
                 "not_stated,variable_tracking_2,variable_tracking_3", "lengths": "1024,2048,4096,8192", "documents": "6,5,3,2"}
SMALL = {"tasks": "niah_multikey,niah_confusable,niah_multivalue,document_qa,variable_tracking_2", "lengths": "2048,4096",
         "documents": "4,2"}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build" / "cpu")
    parser.add_argument("--model", type=pathlib.Path, default=SOURCE / "models" / "demo")
    parser.add_argument("--out", type=pathlib.Path, default=SOURCE / "docs" / "results" / "quality")
    parser.add_argument("--jobs", type=int, default=2, help="daemons at once, of one thread each")
    parser.add_argument("--scale", type=float, default=1, help="documents, as a multiple")
    parser.add_argument("--tasks", default=MAIN["tasks"])
    parser.add_argument("--lengths", default=MAIN["lengths"])
    parser.add_argument("--documents", default=MAIN["documents"], help="of a task, for each length")
    parser.add_argument("--rows", default=",".join(ROWS), help="of quality/rows.py")
    parser.add_argument("--ablation-ratio", default="0.1")
    parser.add_argument("--bare-ratio", default="0.25", help="of the variants without exact layers")
    parser.add_argument("--only", default="main,ablations,bare", help="parts to measure; others stay as they are; none: none")
    parser.add_argument("--peers", type=pathlib.Path, help="JSON of bench/quality_peers.py")
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1, help="of each daemon")
    parser.add_argument("--quick", action="store_true", help="no page; the exit status tells whether floors are kept")
    parser.add_argument("--list-suites", type=pathlib.Path, metavar="FOLDER", help="write the suites there and exit")
    return parser.parse_args()


def suites_of(args):
    def scaled(documents):
        return ",".join(str(max(1, round(float(n) * args.scale))) for n in documents.split(","))
    main = {"tasks": args.tasks, "lengths": args.lengths, "documents": scaled(args.documents), "seed": args.seed}
    return {"main": main, "ablations": {**SMALL, "documents": scaled(SMALL["documents"]), "seed": args.seed + 1}}


def write_suite(suite, file):
    lengths, documents = ([int(n) for n in suite[k].split(",")] for k in ("lengths", "documents"))
    entries = quality_suites.generate(suite["tasks"].split(","), lengths, documents, suite["seed"], ask_all=True)
    file.write_text("".join(json.dumps(e) + "\n" for e in entries))
    return file


def cpu_model():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def made(args, info):
    def said(*command):
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    daemon = said(args.build / "bin" / "semanticached", "--version").split("\n")[0]
    words = [w for i, w in enumerate(sys.argv) if i > 0 and not {w, sys.argv[i - 1]} & {"--build", "--model", "--out", "--only", "--jobs", "--peers"}]
    return {"date": datetime.date.today().isoformat(), "cpu": f"{os.cpu_count()} CPUs of {cpu_model()}",
            "version": f"{daemon} ({said('git', '-C', SOURCE, 'rev-parse', '--short', 'HEAD')})",
            "model": info["name"], "fingerprint": info["fingerprint"], "weight_dtype": info["weight_dtype"],
            "kv_dtype": info["kv_dtype"], "calibration_builtin": info.get("calibration_builtin", False),
            "command": " ".join(["bench/quality_results.py", *words])}


def say(text):
    print(f"quality_results: {text}", flush=True)


class Pool:
    """Jobs on daemons: each takes one that is free."""

    def __init__(self, daemons):
        self.free = queue.Queue()
        for daemon in daemons:
            self.free.put(daemon)
        self.threads = concurrent.futures.ThreadPoolExecutor(len(daemons))

    def start(self, name, job):
        def run():
            daemon, begin = self.free.get(), time.monotonic()
            try:
                result = job(daemon)
            finally:
                self.free.put(daemon)
            total = result["total"]
            say(f"{name}: {total['right']} of {total['asked']}, kept {total['kept']['share']:.3f}, {time.monotonic() - begin:.0f} s")
            return result
        return self.threads.submit(run)


def measure_main(pool, suite, names):
    def exact(daemon):
        return summary(daemon.quality(suite, EXACT, against_exact=False))

    def at(name):
        ratio, options = ROWS[name]
        return lambda daemon: {**summary(daemon.quality(suite, compressed(ratio, options))), "ratio": ratio}
    jobs = {"exact": pool.start("full cache", exact)}
    return jobs | {name: pool.start(f"target {name}", at(name)) for name in names}


def measure_variants(pool, variants, suite, ratio, document):
    """All keep what the first keeps of one document, as near as they come."""
    wanted = concurrent.futures.Future()

    def row(name, options):
        def job(daemon):
            start = float(ratio)
            if name == variants[0][0]:
                wanted.set_result(daemon.kept(document, compressed(start, options)))
            else:
                start = equal_ratio(daemon, document, options, wanted.result(), start)
            return {**variant(summary(daemon.quality(suite, compressed(start, options)))), "ratio": start, "options": options}
        return pool.start(name, job)
    return {name: row(name, options) for name, options in variants}


def measure(args, results):
    only = args.only.split(",")
    suites = suites_of(args)
    results.setdefault("suites", {})
    with contextlib.ExitStack() as exits:
        folder = pathlib.Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="sc-quality-")))
        daemons = [exits.enter_context(Daemon(args.build, args.model, args.threads)) for _ in range(args.jobs)]
        results["made"] = made(args, daemons[0].model_info())
        pool, jobs = Pool(daemons), {}
        if "main" in only:
            jobs["main"] = measure_main(pool, write_suite(suites["main"], folder / "main.jsonl"), args.rows.split(","))
        for part, variants, ratio in (("ablations", ABLATIONS, args.ablation_ratio), ("bare", BARE, args.bare_ratio)):
            if part not in only:
                continue
            suite = write_suite(suites["ablations"], folder / "ablations.jsonl")
            document = folder / "document.txt"
            last = [json.loads(line) for line in suite.read_text().splitlines()][-1]
            document.write_text(last["document"])
            jobs[part] = measure_variants(pool, variants, suite, ratio, document)
        for part, rows in jobs.items():
            results[part] = {name: job.result() for name, job in rows.items()}
            results["suites"][part] = suites["ablations" if part == "bare" else part]


def quick(args):
    """Floors on a few tasks, kept entries and KL; and that they would tell a broken recipe from the default."""
    suite = {"tasks": "plain_facts,document_qa_seen", "lengths": "2048", "documents": "3", "seed": args.seed}
    broken = ["--bias", "none", "--seed-order", "scan", "--chunks", "clause", "--budget", "per_chunk",
              "--exact-layers", "none"]
    with contextlib.ExitStack() as exits:
        folder = pathlib.Path(exits.enter_context(tempfile.TemporaryDirectory(prefix="sc-quality-")))
        daemon = exits.enter_context(Daemon(args.build, args.model, threads=2, kv_memory="1GiB"))
        suite = write_suite(suite, folder / "quick.jsonl")
        rows = {name: daemon.quality(suite, options) for name, options in (
            ("full cache", EXACT), ("target 0.25", compressed(0.25)), ("broken", compressed(0.05, broken)))}
    for name, row in rows.items():
        total = row["total"]
        say(f"{name}: {total['right']} of {total['asked']}, kept {total['kept']['share']:.3f}, KL {total['exact']['kl']:.4f}, "
            f"top-1 {total['exact']['agreement']:.4f}")

    def is_good(row):
        total = row["total"]
        return total["exact_match"] >= 0.85 and total["kept"]["share"] <= 0.55 and total["exact"]["kl"] <= 0.1
    exact = rows["full cache"]["total"]
    wrong = []
    if exact["exact_match"] < 0.9 or exact["kept"]["share"] != 1 or exact["exact"]["kl"] > 1e-6:
        wrong.append("the full cache is not what it should be")
    if not is_good(rows["target 0.25"]):
        wrong.append(f"compressed answers are: {rows['target 0.25']['failures']}")
    if is_good(rows["broken"]):
        wrong.append("the floors do not tell a broken recipe")
    return wrong


def write_plots(build, out):
    """In a Python that has matplotlib: this one, or one made for it."""
    python = sys.executable
    if subprocess.run([python, "-c", "import matplotlib"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        folder = build / "plots-venv"
        python = folder / "bin" / "python"
        if not python.exists():
            venv.create(folder, with_pip=True)
        done = subprocess.run([python, "-m", "pip", "install", "-q", "matplotlib>=3.6,<4"], check=False)
        if done.returncode != 0:
            sys.exit("quality_results: no plots without matplotlib: apt-get install python3-matplotlib")
    subprocess.run([python, SOURCE / "bench" / "quality" / "plots.py", out], check=True)


def main():
    args = arguments()
    args.build = args.build.resolve()
    if args.list_suites:
        args.list_suites.mkdir(parents=True, exist_ok=True)
        for name, suite in suites_of(args).items():
            print(write_suite(suite, args.list_suites / f"{name}.jsonl"))
        return
    if args.quick:
        wrong = quick(args)
        sys.exit("quality: " + "\n".join(wrong) if wrong else 0)
    args.out.mkdir(parents=True, exist_ok=True)
    file = args.out / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    if args.only != "none":
        measure(args, results)
    if args.peers:
        results["peers"] = json.loads(args.peers.read_text())
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in results.items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    args.out.with_suffix(".md").write_text(tables.page(results))
    write_plots(args.build, args.out)


if __name__ == "__main__":
    main()
