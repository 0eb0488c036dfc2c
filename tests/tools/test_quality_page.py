"""The page of bench/quality_results.py says what the results say."""

import pathlib
import sys
import unittest

sys.dont_write_bytecode = True
SOURCE = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(SOURCE / "bench"))
from quality import rows, runner, tables  # noqa: E402


def result(right, kept, kl=0.5):
    """What semcache bench quality --json tells of ten answers, the first `right` of them right; the exact cache: all."""
    answers = [{"id": f"niah_single-1024-{i}", "question": 0, "right": i < right, "physical_entries": int(100 * kept),
                "exact_entries": 100, "exact_right": True, "tokens": 2, "agree": 1, "kl": 2 * kl} for i in range(10)]
    figures = {"asked": 10, "right": right, "exact_match": right / 10, "interval": [0, 1],
               "kept": {"share": kept, "mean_share": kept, "entries": int(1000 * kept), "exact_entries": 1000, "mean_bytes": 2**20},
               "prompt_tokens": 100, "cached_tokens": 50,
               "exact": {"right": 10, "both_right": right, "mean_bytes": 2**21, "tokens": 20, "kl": kl, "agreement": 0.5}}
    task = {"task": "niah_single", "length": 1024, **figures}
    failures = [{"id": f"niah_single-1024-{i}", "task": "niah_single", "question": "q?", "wanted": "1|2", "got": " 3", "exact_got": " 1|2"}
                for i in range(right, 10)]
    return {"total": figures, "tasks": [task], "cells": [{**task, "depth": 4}], "depths": [], "answers": answers, "failures": failures}


MADE = {"date": "2000-01-01", "version": "v", "cpu": "c", "model": "m", "fingerprint": "f" * 64, "weight_dtype": "bf16",
        "kv_dtype": "bf16", "calibration_builtin": False, "command": "command"}


class Page(unittest.TestCase):
    def page(self, right, kept, kl):
        main = {"exact": runner.summary(result(10, 1.0, 0)), "0.25": runner.summary(result(right, kept, kl))}
        return tables.page({"made": MADE, "main": main, "suites": {}})

    def test_targets_are_judged_by_what_was_measured(self):
        page = self.page(10, 0.25, 0.01)
        self.assertIn("1.000 of the full cache's exact match (10 and 10 of 10), wanted 0.99|met|", page)
        self.assertIn("KL 0.0100, wanted at most 0.02|met|", page)
        page = self.page(9, 0.4, 0.01)
        self.assertIn("0.900 of the full cache's exact match (9 and 10 of 10), wanted 0.99|**not met**|", page)
        self.assertIn("|4x|KL 0.0100, wanted at most 0.02|met at 2.5x, not shown at 4x|target 0.25, 1024 tokens: 2.5x, 10 questions|", page)

    def test_failures_are_shown_and_survive_markdown(self):
        page = self.page(9, 0.4, 0.01)
        self.assertIn("|niah_single-1024-9|q?|`1\\|2`|`3`|", page)
        self.assertIn("1 are lost at target 0.25", page)

    def test_the_paired_difference_has_its_interval(self):
        low, high = runner.difference(result(8, 0.4)["answers"])[1:]
        self.assertTrue(-0.5 <= low < -0.2 < high <= 0)
        self.assertEqual(runner.difference(result(10, 0.4)["answers"]), [0, 0, 0])

    def test_a_ratio_is_found_that_keeps_as_much(self):
        class Daemon:
            def kept(self, document, options):
                return 0.2 + 0.5 * float(options[options.index("--target-ratio") + 1])
        ratio = rows.equal_ratio(Daemon(), None, [], 0.325, 0.8)
        self.assertAlmostEqual(0.2 + 0.5 * ratio, 0.325, delta=0.02)


if __name__ == "__main__":
    unittest.main()
