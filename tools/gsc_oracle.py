#!/usr/bin/env python3
"""Reference of the compression algorithm of docs/compression.md, in double precision.

Written from the specification, not from the C code, so that a test that compares the two finds
the mistakes of either. Slow on purpose: a function is the sentence that it stands for.
Python 3.9 or later, standard library only. The commands read and print JSON, one object a line:

    gsc_oracle.py cluster < problems     {"m", "tau", "forced", "order", "dist"} -> labels, seeds
    gsc_oracle.py budget  < problems     the same with "budget" in place of "tau"
    gsc_oracle.py random --chunks N --seed S [--budget]   random problems with their answers
    gsc_oracle.py chunk   < texts        {"classes": [..], "turns": [..], "prompt_len"} -> ends
    gsc_oracle.py entries < chunks       keys and values of one chunk -> distances, labels, cores
    gsc_oracle.py check                  properties that must hold of the reference itself

"dist" is the upper triangle of the symmetric matrix, row by row, without the diagonal (zero).
"""

import argparse
import json
import math
import random
import sys

DIST_ONE = 65536  # fixed point: a distance of 1.0
INT32_MAX = 2**31 - 1
CHUNK_MAX = 128
BISECTIONS = 12
METRICS = ("l2_pre", "l2_post", "cos_pre", "cos_post")
ORDERS = ("dense", "scan")
REPRESENTATIVES = ("mean", "seed", "last")


class InputError(Exception):
    """A request that the specification does not allow; the text says which value and the limit."""


# --- Keys and distances ---------------------------------------------------------------------------


def rotate(x, position, inv_freq):
    """Rotary embedding of one head: element i pairs with i + len(x) / 2."""
    half = len(x) // 2
    y = [0.0] * len(x)
    for j in range(half):
        c = math.cos(position * inv_freq[j])
        s = math.sin(position * inv_freq[j])
        y[j] = x[j] * c - x[j + half] * s
        y[j + half] = x[j + half] * c + x[j] * s
    return y


def distance(a, b, metric, inv_var):
    """Distance of two keys of one head, already in the frame that the metric wants."""
    if metric.startswith("l2"):
        return sum((p - q) ** 2 for p, q in zip(a, b)) * inv_var
    norms = math.sqrt(sum(p * p for p in a)) * math.sqrt(sum(q * q for q in b))
    return 1.0 - (sum(p * q for p, q in zip(a, b)) / norms if norms > 0 else 0.0)


def quantise(d, cap):
    """Fixed point, nearest (ties to even), saturating; no distance is below zero."""
    v = d * DIST_ONE
    return cap if not v < cap else max(0, round(v))


def head_distances(keys, metric, inv_var, inv_freq, cap):
    """keys [m][head_dim]: stored (rotated) keys of one head; token i is at offset i from the
    chunk's origin. Returns the symmetric integer matrix [m][m]."""
    if metric.endswith("pre"):
        keys = [rotate(k, -i, inv_freq) for i, k in enumerate(keys)]
    m = len(keys)
    dist = [[0] * m for _ in range(m)]
    for i in range(m):
        for j in range(i + 1, m):
            d = quantise(distance(keys[i], keys[j], metric, inv_var), cap)
            dist[i][j] = dist[j][i] = d
    return dist


def sum_heads(planes):
    """Integers, so neither the order of heads nor their split over ranks can change the sum."""
    m = len(planes[0])
    return [[sum(p[i][j] for p in planes) for j in range(m)] for i in range(m)]


def head_cap(n_heads_total):
    """The largest value of a head such that the sum over all heads of the model fits in int32."""
    return INT32_MAX // n_heads_total


# --- Greedy Seed Clustering -----------------------------------------------------------------------


def cluster(dist, tau, forced, order):
    """Returns (labels, seeds): labels[i] is the cluster of token i, clusters in order of their
    lowest member, seeds[c] the token that gathered cluster c."""
    if order not in ORDERS:
        raise InputError(f"order is {order!r}, must be one of {', '.join(ORDERS)}")
    m = len(dist)
    free = set(range(m)) - set(forced)
    groups = [(i, [i]) for i in range(m) if i in set(forced)]

    def neighbours(i):
        return [j for j in sorted(free) if j != i and dist[i][j] <= tau]

    while free:
        counts = {i: len(neighbours(i)) for i in free}
        able = [i for i in sorted(free) if counts[i] > 0]
        if not able:
            break
        if order == "dense":
            seed = min(able, key=lambda i: (-counts[i], i))
        else:
            seed = able[0]
        members = sorted([seed] + neighbours(seed))
        groups.append((seed, members))
        free -= set(members)
    groups += [(i, [i]) for i in sorted(free)]

    groups.sort(key=lambda g: g[1][0])
    labels = [0] * m
    for c, (_, members) in enumerate(groups):
        for i in members:
            labels[i] = c
    return labels, [seed for seed, _ in groups]


def cluster_budget(dist, budget, forced, order):
    """At most budget clusters where that is possible; the threshold is bisected on integers."""
    if len(dist) <= budget:
        return cluster(dist, -1, forced, order)
    free = [i for i in range(len(dist)) if i not in set(forced)]
    low, high = -1, max((dist[i][j] for i in free for j in free if i != j), default=0)
    best = cluster(dist, high, forced, order)
    for _ in range(BISECTIONS):
        if high - low <= 1:
            break
        mid = (low + high) // 2
        tried = cluster(dist, mid, forced, order)
        if len(tried[1]) <= budget:
            high, best = mid, tried
        else:
            low = mid
    return best


def square(m, triangle):
    if len(triangle) != m * (m - 1) // 2:
        raise InputError(
            f"dist has {len(triangle)} values, {m * (m - 1) // 2} are needed for m = {m}"
        )
    dist = [[0] * m for _ in range(m)]
    values = iter(triangle)
    for i in range(m):
        for j in range(i + 1, m):
            dist[i][j] = dist[j][i] = next(values)
    return dist


# --- Merge and proportional attention -------------------------------------------------------------


def members_of(labels):
    groups = [[] for _ in range(max(labels) + 1)]
    for i, c in enumerate(labels):
        groups[c].append(i)
    return groups


def merge(keys, values, labels, seeds, representative="mean", log_bias=True):
    """One head: cores [(k, v, bias)] of stored keys and values [m][head_dim]."""
    if representative not in REPRESENTATIVES:
        raise InputError(
            f"representative is {representative!r}, must be one of {', '.join(REPRESENTATIVES)}"
        )
    cores = []
    for c, members in enumerate(members_of(labels)):
        if representative == "mean":
            k = mean_of([keys[i] for i in members])
            v = mean_of([values[i] for i in members])
        else:
            token = seeds[c] if representative == "seed" else members[-1]
            k, v = list(keys[token]), list(values[token])
        cores.append((k, v, math.log(len(members)) if log_bias else 0.0))
    return cores


def mean_of(rows):
    return [math.fsum(column) / len(rows) for column in zip(*rows)]


def attention(query, entries, scale):
    """softmax(q.k * scale + bias) v over entries [(k, v, bias)]."""
    logits = [scale * math.fsum(a * b for a, b in zip(query, k)) + bias for k, _, bias in entries]
    top = max(logits)
    weights = [math.exp(x - top) for x in logits]
    total = math.fsum(weights)
    return [
        math.fsum(w * v[d] for w, (_, v, _) in zip(weights, entries)) / total
        for d in range(len(entries[0][1]))
    ]


# --- Chunker --------------------------------------------------------------------------------------

L0, L1, L2, L3, L4 = range(5)
BLANK_MIN = 16  # shortest chunk that a blank line ends
SENTENCE_ENDS = set(".!?…。！？｡؟۔।॥")
CLAUSE_ENDS = set(",;:，；：、)]")
CLOSERS = "\"')]}”’»」』"  # may stand between the end of a sentence and the end of the token


BLANKS = " \t\r\n\v\f"


def token_class(text, ends_turn=False):
    """Class of a token by its decoded text; ends_turn: a special token."""
    if ends_turn:
        return L0
    body = text.rstrip(BLANKS)
    newlines = text.count("\n")
    if newlines >= 2 or body.endswith("```"):
        return L0
    if newlines == 1 or body.rstrip(CLOSERS)[-1:] in SENTENCE_ENDS:
        return L1
    if body[-1:] in CLAUSE_ENDS:
        return L2
    return L3 if text.startswith(" ") else L4


def class_at(texts, turns, i):
    """Class of token i among its neighbours; None: it hangs on the next token, not known yet."""
    text = texts[i]
    if not turns[i]:
        before = texts[i - 1].rstrip(" \t") if i > 0 else ""
        if before.endswith("\n") and "\n" in text and not text.strip(BLANKS):
            return L0
        if text.endswith((".", ",", ":")):
            if i + 1 == len(texts):
                return None
            if texts[i + 1][:1] in tuple("0123456789"):
                return L3 if text.startswith(" ") else L4
    return token_class(text, turns[i])


def next_end(classes, turns, start, limits, chunking, boundary):
    """End (exclusive) of the chunk that begins at start, or None while it may still grow.
    A class of None is not known yet. No chunk crosses boundary."""
    low, target, high = limits
    for i in range(start, int(min(len(classes), boundary))):
        length = i - start + 1
        kind = classes[i]
        if turns[i] or i + 1 == boundary or (chunking == "fixed" and length == target):
            return i + 1
        if chunking == "fixed":
            continue
        if kind is None:
            return None
        if chunking == "packed":
            closes = (kind == L0 and length >= BLANK_MIN) or (kind <= L1 and length >= target)
        else:
            closes = kind <= (L1 if chunking == "sentence" else L2)
        if closes:
            return i + 1
        if length == high:
            return overflow_end(classes, start, low, high) if chunking == "packed" else i + 1
    return None


def overflow_end(classes, start, low, high):
    sentences = [i for i in range(start + low - 1, start + high) if classes[i] <= L1]
    if sentences:
        return sentences[-1] + 1
    for kind in (L1, L2, L3):
        found = [i for i in range(start + high // 2, start + high) if classes[i] == kind]
        if found:
            return found[-1] + 1
    return start + high


def chunk(classes, turns, n_visible, prompt_len, limits=(32, 64, 128), chunking="packed"):
    """Ends of the chunks that are closed when the first n_visible tokens are known."""
    classes, turns = classes[:n_visible], turns[:n_visible]
    ends, start = [], 0
    while True:
        boundary = prompt_len if start < prompt_len else math.inf
        end = next_end(classes, turns, start, limits, chunking, boundary)
        if end is None:
            return ends
        ends.append(end)
        start = end


# --- Streaming rule -------------------------------------------------------------------------------


def compressed_limit(t, window, epoch):
    """A query at position t sees cores for the chunks that end at or before this position."""
    return max(0, (t - window) // epoch * epoch)


def forced_tokens(start, m, n_sinks, special):
    """Offsets in the chunk [start, start + m) that stay alone: sinks and special tokens."""
    return [i for i in range(m) if start + i < n_sinks or start + i in special]


# --- Random problems ------------------------------------------------------------------------------


def random_matrix(rng, m):
    """Distances with many ties; symmetric, but not always of any metric space."""
    shape = rng.choice(("few", "points", "clusters", "copies", "equal", "wide", "block"))
    if shape in ("few", "equal", "wide"):
        top = {"few": rng.choice((1, 2, 3, 7)), "equal": 0, "wide": INT32_MAX}[shape]
        base = rng.randrange(1000) if shape == "equal" else 0
        pair = {(i, j): base + rng.randint(0, top) for i in range(m) for j in range(i + 1, m)}
    else:
        if shape == "points":
            at = [(rng.randrange(12), rng.randrange(12)) for _ in range(m)]
        elif shape == "clusters":
            homes = [(rng.randrange(1000), rng.randrange(1000)) for _ in range(1 + m // 8)]
            at = [tuple(c + rng.randint(-3, 3) for c in rng.choice(homes)) for _ in range(m)]
        elif shape == "copies":
            homes = [(rng.randrange(50), rng.randrange(50)) for _ in range(1 + m // 4)]
            at = [rng.choice(homes) for _ in range(m)]
        else:
            at = [(i // rng.randint(2, 9), 0) for i in range(m)]
        pair = {
            (i, j): (at[i][0] - at[j][0]) ** 2 + (at[i][1] - at[j][1]) ** 2
            for i in range(m)
            for j in range(i + 1, m)
        }
    return [pair[i, j] for i in range(m) for j in range(i + 1, m)]


def random_problem(rng):
    m = rng.choice((1, 2, 3, 63, 64, 65, 127, 128, rng.randint(1, 128), rng.randint(4, 40)))
    dist = random_matrix(rng, m)
    levels = sorted(set(dist)) or [0]
    tau = rng.choice(
        (
            -1,
            0,
            levels[0],
            levels[-1],
            levels[len(levels) // 2],
            levels[len(levels) // 4],
            levels[len(levels) // 8] - 1,
            rng.randrange(levels[-1] + 1),
            1 << 40,
        )
    )
    share = rng.choice((0.0, 0.0, 0.05, 0.5, 1.0))
    forced = [i for i in range(m) if rng.random() < share]
    return {"m": m, "tau": tau, "budget": rng.randint(1, m), "forced": forced, "dist": dist}


# --- Commands -------------------------------------------------------------------------------------


def problem_of(line):
    p = json.loads(line)
    m = p["m"]
    if not 1 <= m <= CHUNK_MAX:
        raise InputError(f"m is {m}, must be 1..{CHUNK_MAX}")
    return p, square(m, p["dist"]), p.get("forced", []), p.get("order", "dense")


def answer(labels, seeds):
    return {"labels": labels, "seeds": seeds, "count": len(seeds)}


def run_cluster(line):
    p, dist, forced, order = problem_of(line)
    return answer(*cluster(dist, p["tau"], forced, order))


def run_budget(line):
    p, dist, forced, order = problem_of(line)
    return answer(*cluster_budget(dist, p["budget"], forced, order))


def run_chunk(line):
    p = json.loads(line)
    if "classes" in p:
        classes, turns = p["classes"], [bool(t) for t in p.get("turns", [0] * len(p["classes"]))]
        n_visible = p.get("n_visible", len(classes))
    else:
        texts = [bytes.fromhex(t).decode("utf-8", "replace") for t in p["texts"]]
        turns = [bool(t) for t in p.get("turns", [0] * len(texts))]
        n_visible = p.get("n_visible", len(texts))
        texts = texts[:n_visible]
        classes = [class_at(texts, turns, i) for i in range(len(texts))]
    limits = (p.get("min", 32), p.get("target", 64), p.get("max", CHUNK_MAX))
    prompt_len = p.get("prompt_len", len(classes))
    return {
        "ends": chunk(classes, turns, n_visible, prompt_len, limits, p.get("chunking", "packed"))
    }


def clear_threshold(dist, share):
    """A threshold in the widest gap near a share of the distances: rounding cannot cross it."""
    values = sorted(dist[i][j] for i in range(len(dist)) for j in range(i))
    low, high = int(len(values) * share / 2), int(len(values) * (1 + share) / 2)
    near = values[low : high + 1]
    gaps = [(b - a, a + (b - a) // 2) for a, b in zip(near, near[1:])]
    return max(gaps)[1] if gaps else 0


def run_entries(line):
    """keys, values: [n_heads][m][head_dim], stored (rotated) keys of one chunk of one layer.
    Without tau a threshold is chosen that joins about a quarter of the pairs. queries
    [n][head_dim]: each attends to the cores of every head."""
    p = json.loads(line)
    metric = p.get("metric", "l2_pre")
    if metric not in METRICS:
        raise InputError(f"metric is {metric!r}, must be one of {', '.join(METRICS)}")
    cap = p.get("cap", head_cap(len(p["keys"])))
    planes = [
        head_distances(k, metric, inv_var, p["inv_freq"], cap)
        for k, inv_var in zip(p["keys"], p["inv_var"])
    ]
    dist = sum_heads(planes)
    tau = p["tau"] if "tau" in p else clear_threshold(dist, 0.25)
    labels, seeds = cluster(dist, tau, p.get("forced", []), p.get("order", "dense"))
    rep, bias = p.get("representative", "mean"), p.get("log_bias", True)
    cores = [merge(k, v, labels, seeds, rep, bias) for k, v in zip(p["keys"], p["values"])]
    scale = len(p["keys"][0][0]) ** -0.5
    out = [[attention(q, head, scale) for head in cores] for q in p.get("queries", [])]
    flat = [dist[i][j] for i in range(len(dist)) for j in range(i + 1, len(dist))]
    return dict(answer(labels, seeds), tau=tau, dist=flat, cores=cores, attention=out)


def random_lines(args):
    rng = random.Random(args.seed)
    for _ in range(args.chunks):
        p = random_problem(rng)
        dist = square(p["m"], p["dist"])
        for order in ORDERS:
            p[order] = answer(*cluster(dist, p["tau"], p["forced"], order))
            if args.budget:
                p["budget_" + order] = answer(
                    *cluster_budget(dist, p["budget"], p["forced"], order)
                )
        yield p


# --- Properties of the reference ------------------------------------------------------------------


def random_head(rng, m, head_dim, distinct):
    """m keys of which only `distinct` differ, and m different values."""
    pool = [[rng.gauss(0, 1) for _ in range(head_dim)] for _ in range(distinct)]
    keys = [list(rng.choice(pool)) for _ in range(m)]
    return keys, [[rng.gauss(0, 1) for _ in range(head_dim)] for _ in range(m)]


def check_equal_keys(rng):
    """Equal keys: attention over their core is attention over them, whatever the values."""
    keys, values = random_head(rng, 40, 8, 6)
    dist = head_distances(keys, "l2_post", 1.0, [1.0] * 4, INT32_MAX)
    labels, seeds = cluster(dist, 0, [3, 7], "dense")
    assert len(seeds) < 40, "nothing was merged"
    query = [rng.gauss(0, 1) for _ in range(8)]
    exact = attention(query, [(k, v, 0.0) for k, v in zip(keys, values)], 8**-0.5)
    cores = attention(query, merge(keys, values, labels, seeds), 8**-0.5)
    worst = max(abs(a - b) for a, b in zip(exact, cores))
    assert worst < 1e-12, f"differs by {worst}"


def check_mass(rng):
    """By Jensen, a core of the mean key never claims more mass than its members had."""
    keys, values = random_head(rng, 12, 8, 12)
    query = [rng.gauss(0, 2) for _ in range(8)]
    core = merge(keys, values, [0] * 12, [0])[0]
    logit = sum(a * b for a, b in zip(query, core[0])) + core[2]
    mass = math.log(sum(math.exp(sum(a * b for a, b in zip(query, k))) for k in keys))
    assert logit <= mass + 1e-12, f"core {logit} above its members {mass}"


def check_derotation(rng):
    """The same key at two positions is at distance zero before, not after, the rotation."""
    inv_freq = [0.7, 0.2, 0.05, 0.01]
    key = [rng.gauss(0, 1) for _ in range(8)]
    keys = [rotate(key, 100 + i, inv_freq) for i in range(10)]
    pre = head_distances(keys, "l2_pre", 1.0, inv_freq, INT32_MAX)
    post = head_distances(keys, "l2_post", 1.0, inv_freq, INT32_MAX)
    assert max(map(max, pre)) == 0 and post[0][9] > 0, (pre[0], post[0])


def check_split(rng):
    """The sum over heads is the same however the heads are split over ranks."""
    planes = [square(6, [rng.randrange(head_cap(8)) for _ in range(15)]) for _ in range(8)]
    whole = sum_heads(planes)
    assert whole == sum_heads([sum_heads(planes[:3]), sum_heads(planes[3:])])
    assert max(map(max, whole)) <= INT32_MAX


def check_partition(rng):
    """Clusters are star-shaped around their seed, forced tokens alone, numbers by lowest member."""
    p = random_problem(rng)
    dist = square(p["m"], p["dist"])
    for order in ORDERS:
        labels, seeds = cluster(dist, p["tau"], p["forced"], order)
        groups = members_of(labels)
        assert [g[0] for g in groups] == sorted(g[0] for g in groups)
        for seed, group in zip(seeds, groups):
            assert seed in group
            assert all(i == seed or dist[seed][i] <= p["tau"] for i in group)
            assert len(group) == 1 or not set(group) & set(p["forced"])


def check_chunks(rng):
    """What is closed for a prefix stays closed, and no limit is broken."""
    words = ["a", " b", ".", ",", "\n", "\n\n", " c", " d", "7", " e.", "3", ":"]
    texts = rng.choices(words, weights=[9, 9, 1, 1, 0.2, 0.1, 9, 9, 1, 1, 1, 1], k=600)
    turns = [rng.random() < 0.01 for _ in texts]
    prompt_len = rng.randint(1, 600)

    def ends(n):
        classes = [class_at(texts[:n], turns[:n], i) for i in range(n)]
        return chunk(classes, turns, n, prompt_len)

    full = ends(600)
    for n in rng.sample(range(1, 600), 40):
        part = ends(n)
        assert part == full[: len(part)]
        assert n - (part[-1] if part else 0) <= CHUNK_MAX
    starts = [0] + full[:-1]
    assert all(0 < e - s <= CHUNK_MAX for s, e in zip(starts, full))
    closed = set(full)
    assert all(i + 1 in closed for i, t in enumerate(turns) if t and i < full[-1])
    assert prompt_len in closed or prompt_len > full[-1]


def run_checks(args):
    rng = random.Random(args.seed)
    checks = (
        check_equal_keys,
        check_mass,
        check_derotation,
        check_split,
        check_partition,
        check_chunks,
    )
    for check in checks:
        for _ in range(args.rounds):
            check(rng)
        print(json.dumps({"check": check.__name__[6:], "rounds": args.rounds, "ok": True}))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    filters = {
        "cluster": run_cluster,
        "budget": run_budget,
        "chunk": run_chunk,
        "entries": run_entries,
    }
    for name in filters:
        commands.add_parser(name)
    sub = commands.add_parser("random")
    sub.add_argument("--chunks", type=int, default=100)
    sub.add_argument("--seed", type=int, default=1)
    sub.add_argument("--budget", action="store_true", help="answers of the budget mode too")
    sub = commands.add_parser("check")
    sub.add_argument("--rounds", type=int, default=20)
    sub.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    if args.command == "check":
        run_checks(args)
    elif args.command == "random":
        for p in random_lines(args):
            print(json.dumps(p, separators=(",", ":")))
    else:
        for n, line in enumerate(sys.stdin, 1):
            try:
                print(json.dumps(filters[args.command](line), separators=(",", ":")), flush=True)
            except (InputError, KeyError, TypeError, ValueError) as e:
                sys.exit(f"gsc_oracle: line {n}: {type(e).__name__}: {e}")


if __name__ == "__main__":
    main()
