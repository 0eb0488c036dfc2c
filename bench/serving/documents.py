"""Documents of 8000 tokens in a fixed memory of 256 MiB: how many stay, and what questions on them take."""

from serving.setup import MODES, markdown

MEMORY = "256MiB"
COMMON = ["--document-len", 8000, "--question-len", 16, "--output-len", 4]
FILL = ["--documents", 24, "--questions", 8]
ASK = ["--documents", 16, "--questions", 32]
# The documents are random words, all unlike the text that the thresholds are from, so that a layer keeps 1.5 times its
# share (docs/compression.md, outliers); with the window, about a quarter of the entries.
KEPT = {"exact": [], "compressed": ["--target-ratio", 0.1]}


def measure(bench):
    modes = {}
    for mode in MODES:
        options = [*COMMON, "--kv", mode, *KEPT[mode]]
        daemon = bench.daemon(kv__memory=MEMORY)
        fill = bench.semcache(daemon, "bench documents", *options, *FILL, "--seed", bench.seed)
        daemon.stop()
        daemon = bench.daemon(kv__memory=MEMORY)
        asked = bench.semcache(daemon, "bench documents", *options, *ASK, "--seed", bench.seed + 1)
        daemon.stop()
        modes[mode] = {"fill": fill, "ask": asked}
    return {"modes": modes}


def table(result):
    fill, ask = [], []
    for mode, m in result["modes"].items():
        f, a = m["fill"], m["ask"]
        name = " ".join([mode.upper(), *(f"`{KEPT[mode][0]} {KEPT[mode][1]}`" for _ in KEPT[mode][:1])])
        fill.append((name, f"{f['ingest']['ratio']:.3f}", f"{f['bytes_per_document'] / 2**20:.1f} MiB",
                     f["resident"]["after_ingest"]))
        ask.append((name, f"{a['ingest']['ratio']:.3f}", f"{a['qa_per_s']:.2f}", f"{100 * a['hit_rate']:.1f} %",
                    f"{a['warm']['ttft_ms']['p50']:.1f} ms", f"{a['warm']['ttft_ms']['p99']:.1f} ms"))
    put, turns = (next(iter(result["modes"].values()))[part]["config"] for part in ("fill", "ask"))
    return "\n".join([
        f"{put['documents']} documents put, {put['questions']} questions:\n",
        markdown(("mode", "entries kept", "bytes a document", "ready after the puts"), fill),
        f"\n{turns['documents']} documents, {turns['questions']} questions in turn, which fit compressed and not exact:\n",
        markdown(("mode", "entries kept", "questions/s", "prompt tokens cached", "TTFT p50", "p99"), ask),
    ])


def plot(result, figure):
    axes = figure.subplots(1, 2)
    modes = result["modes"]
    names = [m.upper() for m in modes]
    axes[0].bar(names, [m["fill"]["resident"]["after_ingest"] for m in modes.values()], color=["C0", "C1"])
    put = next(iter(modes.values()))["fill"]["config"]["documents"]
    axes[0].set(title=f"of {put} documents, 256 MiB of pages", ylabel="documents ready")
    axes[1].bar(names, [m["ask"]["warm"]["ttft_ms"]["p50"] for m in modes.values()], color=["C0", "C1"])
    axes[1].set(title="16 documents, questions in turn", ylabel="median time to first token, ms (log)", yscale="log")
