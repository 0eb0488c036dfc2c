#!/usr/bin/env python3
"""Each rule of check_layers.py finds what it is there to find."""

import pathlib
import tempfile
import unittest

import check_layers


class Rules(unittest.TestCase):
    def found(self, file, include):
        with tempfile.TemporaryDirectory() as root:
            path = pathlib.Path(root, file)
            path.parent.mkdir(parents=True)
            path.write_text(f"/* first line */\n{include}\n")
            n_seen, broken = check_layers.check(root)
            self.assertEqual(n_seen, 1)
            return broken

    def test_an_include_that_points_up_is_found_with_its_place(self):
        self.assertEqual(len(self.found("base/log.c", '#include "model/config.h"')), 1)
        self.assertIn("shard/step.c:2:", self.found("shard/step.c", '#include "daemon/app.h"')[0])

    def test_only_daemon_knows_a_backend(self):
        self.assertTrue(self.found("shard/step.c", '#include "cpu/cpu.h"'))
        self.assertTrue(self.found("scheduler/admit.c", '#  include "cuda/cuda.h"'))
        self.assertFalse(self.found("daemon/app.c", '#include "cpu/cpu.h"'))

    def test_the_store_is_a_leaf(self):
        self.assertTrue(self.found("store/a.c", '#include "model/config.h"'))
        self.assertFalse(self.found("store/a.c", '#include "base/hash.h"'))
        self.assertFalse(self.found("scheduler/a.c", '#include "store/store.h"'))

    def test_foreign_headers_stay_home(self):
        self.assertTrue(self.found("shard/step.c", "#include <grpc/grpc.h>"))
        self.assertTrue(self.found("scheduler/a.c", "#include <protobuf-c/protobuf-c.h>"))
        self.assertTrue(self.found("daemon/a.c", "#include <cuda_runtime.h>"))
        self.assertTrue(self.found("client/a.c", "#include <libconfig.h>"))
        self.assertTrue(self.found("base/a.c", "#include <cmocka.h>"))
        self.assertTrue(self.found("scheduler/a.c", "#include <hiredis/hiredis.h>"))
        self.assertFalse(self.found("store/redis.c", "#include <hiredis/hiredis.h>"))
        self.assertFalse(self.found("cuda/a.cu", "#include <cuda_runtime.h>"))
        self.assertFalse(self.found("base/a.c", "#include <stdio.h>"))

    def test_generated_messages_belong_to_proto(self):
        line = '#include "semanticache/v1/inference.pb-c.h"'
        self.assertTrue(self.found("scheduler/a.c", line))
        self.assertFalse(self.found("daemon/a.c", line))

    def test_includes_are_written_from_the_root(self):
        self.assertTrue(self.found("model/a.c", '#include "json.h"'))
        self.assertTrue(self.found("model/a.c", '#include "../base/log.h"'))


if __name__ == "__main__":
    unittest.main()
