"""The rows: the default recipe at each ratio, and what it becomes when one part is replaced."""

EXACT = ["--kv", "exact"]

# The main rows: name, target ratio, options. A short window and epoch keep what is exact at the end small: without
# them documents of some thousand tokens cannot be made eight times smaller.
SHORT = ["--window", "64", "--epoch", "128"]
MAIN = {
    "0.5": (0.5, []),
    "0.25": (0.25, []),
    "0.17": (0.17, []),
    "0.15 window 64 epoch 128": (0.15, SHORT),
    "0.05 window 64 epoch 128": (0.05, SHORT),
}

# name, options; one change at a time
ABLATIONS = [
    ("default", []),
    ("no bias", ["--bias", "none"]),
    ("seed kept, others dropped", ["--representative", "seed"]),
    ("last kept, others dropped", ["--representative", "last"]),
    ("seeds in order of the text", ["--seed-order", "scan"]),
    ("l2_post", ["--metric", "l2_post"]),
    ("cos_pre", ["--metric", "cos_pre"]),
    ("cos_post", ["--metric", "cos_post"]),
    ("labels per head", ["--labels", "per_head"]),
    ("chunks: sentence", ["--chunks", "sentence"]),
    ("chunks: clause", ["--chunks", "clause"]),
    ("chunks: fixed 64", ["--chunks", "fixed"]),
    ("budget per chunk", ["--budget", "per_chunk"]),
    ("outliers merged", ["--keep-outliers", "false"]),
    ("exact_then_compress", ["--prefill", "exact_then_compress"]),
    ("layer 0 exact", ["--exact-layers", "0"]),
    ("layer 1 exact", ["--exact-layers", "1"]),
    ("layer 2 exact", ["--exact-layers", "2"]),
    ("layers 0 and 1 exact", ["--exact-layers", "0,1"]),
    ("window 64", ["--window", "64"]),
    ("epoch 128", ["--epoch", "128"]),
    ("window 64, epoch 128", ["--window", "64", "--epoch", "128"]),
]

# The same with outliers merged: what keeping them saves, other parts have to.
BARE = [(name, [*options, "--keep-outliers", "false"]) for name, options in ABLATIONS
        if name not in ("outliers merged", "exact_then_compress", "epoch 128", "window 64, epoch 128")]

LOWEST, HIGHEST, CLOSE, TRIES = 0.011, 1.0, 0.004, 6


def compressed(ratio, options=()):
    return ["--kv", "compressed", "--target-ratio", f"{ratio:.4f}", *options]


def equal_ratio(daemon, document, options, wanted, start):
    """The target ratio at which the options keep the wanted share of the document's entries, as close as they can."""
    low, high, ratio = LOWEST, HIGHEST, start
    best = (9.0, start)
    for _ in range(TRIES):
        kept = daemon.kept(document, compressed(ratio, options))
        best = min(best, (abs(kept - wanted), ratio))
        if best[0] < CLOSE:
            break
        low, high = (low, ratio) if kept > wanted else (ratio, high)
        # Kept grows with the ratio, and the exact part of it does not.
        guess = ratio * (wanted / kept) ** 2
        ratio = guess if low < guess < high else (low * high) ** 0.5
    return best[1]
