"""tools/device-check keeps what it found, whatever a program on the device does: programs of a build are scripts here."""

import argparse
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
SOURCE = pathlib.Path(__file__).resolve().parents[2]
TOOL = SOURCE / "tools" / "device-check"


class DeviceCheck(unittest.TestCase):
    def setUp(self):
        self.place = tempfile.TemporaryDirectory()
        self.addCleanup(self.place.cleanup)
        self.root = pathlib.Path(self.place.name)
        self.script(self.root / "path" / "nvidia-smi", "echo 'A device, 1.2, 80000'")
        self.out = self.root / "out"

    def script(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n" + text + "\n", encoding="utf-8")
        path.chmod(0o755)

    def program(self, name, text):
        self.script(self.root / "build" / "bin" / name, text)

    def command(self, *options):
        env = dict(os.environ, PATH=f"{self.root / 'path'}:{os.environ['PATH']}")
        command = [sys.executable, TOOL, "--build", self.root / "build", "--out", self.out, "--only", "tests", *options]
        return {"args": [str(x) for x in command], "env": env, "text": True}

    def results(self):
        found = json.loads((self.out / "device-check.json").read_text(encoding="utf-8"))
        return {f"{r['part']} {r['name']}": r["result"] for r in found["rows"]}, found["complete"]

    def wait_for(self, condition):
        end = time.monotonic() + 20
        while not condition():
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def gone(self, name):
        pid = int((self.root / name).read_text(encoding="utf-8"))
        try:
            state = pathlib.Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        return state == "Z"

    def test_a_program_that_hangs_is_ended_with_its_children_and_the_others_run(self):
        self.program("test_cuda_draw", f"sleep 100 & echo $! > {self.root / 'child'}; wait")
        self.program("test_cuda_best", "exit 0")
        self.program("test_cuda_kv", "echo 'error: wrong'; exit 3")
        self.program("test_cuda_zebra", "exit 77")
        self.program("test_shard_draw", 'test -n "$SC_TEST_BACKEND"')
        r = subprocess.run(**self.command("--timeout", "1", "--jobs", "1"), capture_output=True)
        self.assertEqual(r.returncode, 1)
        found, complete = self.results()
        self.assertTrue(complete)
        self.assertEqual(list(found.items()), [("twin draw", "timeout"), ("engine shard_draw", "passed"), ("twin best", "passed"),
                                               ("twin kv", "failed (3)"), ("twin zebra", "skipped")])
        self.assertIn("    error: wrong", r.stdout)
        self.wait_for(lambda: self.gone("child"))

    def test_what_does_not_fit_the_time_is_named(self):
        self.program("test_cuda_device", "exec sleep 100")
        self.program("test_cuda_draw", "exit 0")
        start = time.monotonic()
        r = subprocess.run(**self.command("--seconds", "6", "--jobs", "1"), capture_output=True)
        self.assertLess(time.monotonic() - start, 30)
        self.assertEqual(r.returncode, 1)
        self.assertEqual(self.results(), ({"twin device": "timeout", "twin draw": "no time left"}, True))

    def test_the_file_is_there_while_programs_run_and_they_end_with_it(self):
        self.program("test_cuda_device", "exit 0")
        self.program("test_cuda_draw", f"echo $$ > {self.root / 'pid'}; exec sleep 100")
        with subprocess.Popen(**self.command("--jobs", "1"), stdout=subprocess.DEVNULL) as p:
            self.wait_for((self.root / "pid").exists)
            self.wait_for(lambda: (self.root / "pid").read_text(encoding="utf-8").strip())
            self.assertEqual(self.results(), ({"twin device": "passed", "twin draw": "running"}, False))
            p.send_signal(signal.SIGTERM)
            self.assertEqual(p.wait(20), 143)
        self.wait_for(lambda: self.gone("pid"))

    def test_a_program_that_was_being_started_when_all_was_stopped_ends_too(self):
        loader = importlib.machinery.SourceFileLoader("device_check", str(TOOL))
        tool = importlib.util.module_from_spec(importlib.util.spec_from_loader("device_check", loader))
        loader.exec_module(tool)
        check = tool.Check(argparse.Namespace(out=self.out, build=None, seconds=0))
        check.stop()
        self.assertEqual(check.execute(["sleep", "100"], dict(os.environ), self.root / "log", 20), -signal.SIGKILL)

    def test_its_tests_of_the_engine_are_those_of_ctest(self):
        lists = (SOURCE / "tests" / "cuda" / "CMakeLists.txt").read_text(encoding="utf-8")
        ctest = re.search(r"foreach\(test ((?:shard|scheduler)_[^)]*)\)", lists).group(1).split()
        tool = re.search(r"ENGINE_TESTS = \[([^\]]*)\]", TOOL.read_text(encoding="utf-8")).group(1)
        self.assertEqual(sorted(re.findall(r'"(\w+)"', tool)), sorted(ctest))

    def test_a_sanitizer_has_small_runs_of_some_tests_each_with_a_log_of_its_own(self):
        self.script(self.root / "path" / "compute-sanitizer", 'echo "$2"; for program; do :; done; exec "$program"')
        self.program("test_cuda_attention", 'echo "small $SC_TEST_SMALL, $SC_TEST_FILTER"; sleep 0.2')
        self.program("test_cuda_kv", 'echo "small $SC_TEST_SMALL, $SC_TEST_FILTER"; exec sleep 100')
        r = subprocess.run(**self.command("--only", "sanitizer", "--timeout", "1", "--jobs", "4"), capture_output=True)
        self.assertEqual(r.returncode, 1)
        found, _ = self.results()
        self.assertEqual(found["memcheck kv"], "timeout")
        self.assertEqual(found["racecheck attention.each_call"], "passed")
        self.assertEqual((self.out / "logs" / "memcheck.kv.log").read_text(encoding="utf-8"), "memcheck\nsmall 1, *\n")
        for row in ("each_call", "large_scores"):
            log = (self.out / "logs" / f"racecheck.attention.{row}.log").read_text(encoding="utf-8")
            self.assertEqual(log, f"racecheck\nsmall 1, {row}*\n")

    def test_no_row_of_a_sanitizer_is_listed_twice(self):
        listed = re.search(r"SANITIZED = \[(.*?)\n\]", TOOL.read_text(encoding="utf-8"), re.S).group(1)
        rows = re.findall(r'\("\w+", "\w+", "[^"]*"\)', listed)
        self.assertEqual(len(rows), len(set(rows)))

    def test_what_a_sanitizer_runs_is_there(self):
        listed = re.search(r"SANITIZED = \[(.*?)\n\]", TOOL.read_text(encoding="utf-8"), re.S).group(1)
        for program, tests in re.findall(r'\("\w+", "(\w+)", "([^"]*)"\)', listed):
            text = (SOURCE / "tests" / "cuda" / f"test_{program}.c").read_text(encoding="utf-8")
            self.assertIn("cmocka_unit_test(" + tests.rstrip("*"), text)


if __name__ == "__main__":
    unittest.main()
