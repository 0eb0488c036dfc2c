"""A client that measures: the time to the first token and the gaps between tokens, as a user has them."""

import threading
import time

import harness

KV = {"exact": harness.common.KV_MODE_EXACT, "compressed": harness.common.KV_MODE_COMPRESSED}


class Answer:
    def __init__(self):
        self.ttft, self.gaps, self.final = None, [], None


def ask(daemon, ids, n_tokens, mode):
    """n_tokens greedy tokens behind ids, whatever they are."""
    request = harness.ask(ids=ids, sampling={"max_tokens": n_tokens})
    request.kv.mode = KV[mode]
    begin, last, answer = time.monotonic(), None, Answer()
    for message in daemon.client.stream(request, timeout=600):
        now = time.monotonic()
        if message.HasField("delta"):
            if last is None:
                answer.ttft = now - begin
            else:
                answer.gaps.append(now - last)
            last = now
        elif message.HasField("final"):
            answer.final = message.final
    return answer


def together(jobs):
    """What the functions return, run at once."""
    results = [None] * len(jobs)

    def run(i):
        results[i] = jobs[i]()

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(jobs))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return results
