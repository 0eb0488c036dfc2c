"""Events of the cache, as a router uses them: it knows which blocks are held, and computes their keys itself."""

import hashlib
import struct
import threading

import harness as h
from harness import Code, ask, control
from test_documents import ADMIN, KV, TEXT, USER_A, USER_B, Case, call, generate, meta, put

BLOCK = 512


def blake(*parts):
    return hashlib.blake2b(b"".join(parts), digest_size=32).digest()


def word(text):
    return struct.pack("<Q", len(text)) + text


def block_keys(model, recipe, namespace, ids, offset):
    """The keys of a prompt's blocks, as docs/sharing.md says."""
    key = blake(
        word(b"semanticache prefix 1"),
        bytes.fromhex(model),
        bytes.fromhex(recipe),
        word(namespace.encode()),
        struct.pack("<I", 0),
    )
    keys, start = [key], 0
    while start < len(ids):
        end = BLOCK if start < BLOCK else offset + ((start - offset) // BLOCK + 1) * BLOCK
        end = min(len(ids), end)
        key = blake(key, struct.pack("<I", end - start), struct.pack(f"<{end - start}i", *ids[start:end]))
        keys.append(key)
        start = end
    return keys


class Follower:
    """Reads on a thread of its own; blocks[key] is what was told of it."""

    def __init__(self, daemon, key=None, start=None):
        request = control.SubscribeKvEventsRequest(from_sequence=start)
        self.stream = daemon.client.control.SubscribeKvEvents(
            request, timeout=h.PATIENCE_S, metadata=meta(key)
        )
        self.blocks, self.kinds, self.numbers, self.error = {}, [], [], None
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            for event in self.stream:
                with self.changed:
                    self.apply(event)
                    self.changed.notify_all()
        except h.grpc.RpcError as error:
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def apply(self, event):
        kind = event.WhichOneof("event")
        self.kinds.append(kind)
        if event.sequence:
            self.numbers.append(event.sequence)
        if kind == "cleared":
            self.blocks.clear()
        elif kind == "stored":
            for key in event.stored.block_keys:
                self.blocks[key] = event.stored
        elif kind == "removed":
            for key in event.removed.block_keys:
                self.blocks.pop(key, None)

    def wait(self, true, what):
        with self.changed:
            if not self.changed.wait_for(true, h.PATIENCE_S):
                raise AssertionError(f"not told: {what}; {self.kinds} {self.error}")
        return self

    def synced(self):
        return self.wait(lambda: "synced" in self.kinds, "synced")

    def ended(self):
        self.wait(lambda: self.error is not None, "the end")
        return self.error.code()


class Events(Case):
    def flush(self, d, key=None):
        call(d, d.client.control.FlushCache, control.FlushCacheRequest(), key)

    def test_a_router_knows_what_is_held(self):
        d = self.start()
        f = Follower(d).synced()
        self.assertEqual(f.kinds, ["cleared", "synced"])
        model = d.client.control.GetModelInfo(control.GetModelInfoRequest())
        ids = h.prompt_ids(1, 1300, model.vocab)
        for kv, offset in ((h.exact(), 0), (KV, model.default_kv.window % BLOCK)):
            answer = generate(d, ask(ids=ids, kv=kv, sampling={"max_tokens": 1}))
            recipe = answer.receipt.recipe_id
            keys = block_keys(model.fingerprint, recipe, "default", ids, offset)
            f.wait(lambda keys=keys: all(k in f.blocks for k in keys[1:]), "the prompt's blocks")
            for parent, key in zip(keys, keys[1:]):
                self.assertEqual(f.blocks[key].parent_key, parent)
                self.assertEqual(f.blocks[key].recipe_id, recipe)
                self.assertEqual(f.blocks[key].namespace, "default")
            self.assertEqual(f.blocks[keys[2]].start, BLOCK)
            self.assertEqual(f.blocks[keys[2]].block_tokens, offset or BLOCK)
        # Numbers have no gaps, and another follower is told the same whole.
        self.assertEqual(f.numbers[1:], list(range(f.numbers[1], f.numbers[1] + len(f.numbers) - 1)))
        other = Follower(d).synced()
        self.assertEqual(set(other.blocks), set(f.blocks))
        # It goes on where the first was in the middle, and misses nothing.
        late = Follower(d, start=f.numbers[2])
        late.wait(lambda: len(late.numbers) == len(f.numbers) - 2, "the rest")
        self.assertEqual(late.numbers, f.numbers[2:])
        self.assertNotIn("cleared", late.kinds)
        self.flush(d)
        for follower in (f, other, late):
            follower.wait(lambda follower=follower: not follower.blocks, "all is removed")
            follower.stream.cancel()
            self.assertEqual(follower.ended(), Code.CANCELLED)

    def test_a_number_that_is_not_held_begins_with_the_whole(self):
        d = self.start()
        generate(d, ask(text=TEXT, kv=KV, sampling={"max_tokens": 1}))
        f = Follower(d).synced()
        self.assertTrue(f.blocks)
        last = f.numbers[-1]
        for start in (0, 1, last + 1000, 2**64 - 1):
            other = Follower(d, start=start).synced()
            self.assertEqual(other.kinds[0], "cleared")
            self.assertEqual(set(other.blocks), set(f.blocks))
            other.stream.cancel()
        self.assertEqual(d.stop(), 0)
        self.assertEqual(f.ended(), Code.UNAVAILABLE)
        # Another life: its numbers are others.
        d = self.start()
        f = Follower(d, start=last + 1).synced()
        self.assertEqual(f.kinds, ["cleared", "synced"])
        self.assertGreater(f.numbers[-1], last)

    def test_namespaces_see_their_own_and_the_shared_one(self):
        keys = self.dir / "keys"
        keys.write_text(f"{USER_A} a user\n{USER_B} b user\nkey-of-common-0123456 common user\n{ADMIN} ops admin\n")
        keys.chmod(0o600)
        d = self.start(f'auth = {{ keys_file = "{keys}"; shared_namespace = "common"; }};')
        self.refused(Code.UNAUTHENTICATED, "no API key", lambda: list(
            d.client.control.SubscribeKvEvents(control.SubscribeKvEventsRequest(), timeout=h.PATIENCE_S)))
        generate(d, ask(text=TEXT[:4000], kv=KV, sampling={"max_tokens": 1}), USER_B)
        a, b, admin = (Follower(d, key).synced() for key in (USER_A, USER_B, ADMIN))
        self.assertFalse(a.blocks)
        self.assertTrue(b.blocks)
        generate(d, ask(text=TEXT[100:4000], kv=KV, sampling={"max_tokens": 1}), USER_A)
        put(d, TEXT[200:4000], key="key-of-common-0123456", document_id="x", kv=KV)
        generate(d, ask(text=TEXT[300:4000], kv=KV, sampling={"max_tokens": 1}), USER_B)
        seen = lambda f: {block.namespace for block in list(f.blocks.values())}  # noqa: E731
        for follower, expected in ((a, {"a", "common"}), (b, {"b", "common"}), (admin, {"a", "b", "common"})):
            follower.wait(lambda f=follower, e=expected: seen(f) >= e, expected)
            self.assertEqual(seen(follower), expected)
        of_b = lambda f: sum(1 for block in list(f.blocks.values()) if block.namespace == "b")  # noqa: E731
        h.wait_until(lambda: of_b(b) == of_b(admin), "the same of b for b and the admin")
        # What is held now, and a place to go on from, tell no more.
        for key, expected in ((USER_A, {"a", "common"}), (USER_B, {"b", "common"})):
            self.assertEqual(seen(Follower(d, key).synced()), expected)
        again = Follower(d, USER_A, start=admin.numbers[1])
        again.wait(lambda: seen(again) == {"a", "common"}, "both")
        self.flush(d, ADMIN)
        for follower in (again, admin):
            follower.wait(lambda f=follower: not f.blocks, "all is removed")
        self.assertLessEqual(set(again.numbers), set(admin.numbers))

    def test_a_drain_does_not_wait_for_followers(self):
        d = self.start()
        f = Follower(d).synced()
        slow = d.client.control.SubscribeKvEvents(control.SubscribeKvEventsRequest())  # never read
        d.terminate()
        self.assertEqual(d.wait(), 0)
        self.assertEqual(f.ended(), Code.UNAVAILABLE)
        self.assertIn("shutting down", f.error.details())
        slow.cancel()

    def test_without_sharing_there_is_nothing_to_follow(self):
        d = self.start("kv = { sharing = false; };")
        self.assertEqual(Follower(d).ended(), Code.FAILED_PRECONDITION)


if __name__ == "__main__":
    h.main()
