"""docs/results/quality.md from results.json: every number in it comes from there."""

from quality.runner import NIAH, family, of_documents, pooled

SHOWN = 24  # failures
CLOSE = 0.97  # of a factor: kept entries differ from document to document


def markdown(head, rows):
    lines = ["|" + "|".join(head) + "|", "|" + "-|" * len(head)]
    return "\n".join(lines + ["|" + "|".join(str(cell) for cell in row) + "|" for row in rows])


def wilson(right, asked, z=1.959964):
    p, n = right / asked, asked
    mid, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    return f"{(mid - spread) / (1 + z * z / n):.3f}-{(mid + spread) / (1 + z * z / n):.3f}"


def points(d):
    return f"{100 * d[0]:+.1f} ({100 * d[1]:+.1f} to {100 * d[2]:+.1f})"


def label(name):
    return "full cache" if name == "exact" else f"target {name}"


def main_table(rows):
    lines = []
    for name, row in rows.items():
        total = row["total"]
        exact = total.get("exact")
        lines.append([label(name), f"{total['kept']['share']:.3f}", f"{total['kept']['mean_share']:.3f}",
                      f"{total['kept']['mean_bytes'] / 2**20:.1f} MiB", f"{total['right']} of {total['asked']}",
                      f"{total['exact_match']:.3f}", wilson(total["right"], total["asked"]),
                      points(row["difference"]) if "difference" in row else "",
                      f"{exact['kl']:.4f}" if exact else "", f"{exact['agreement']:.4f}" if exact else ""])
    return markdown(["cache", "kept", "kept, mean", "bytes a sequence", "right", "share", "95 %", "points against the full cache",
                     "KL", "top-1"], lines)


def task_table(rows):
    """A line for each task and length, exact match of each row, and what it kept."""
    lines = []
    names = list(rows)
    for i, task in enumerate(rows[names[0]]["tasks"]):
        line = [f"{task['task']}, {task['length']}", task["asked"]]
        for name in names:
            t = rows[name]["tasks"][i]
            line.append(f"{t['exact_match']:.3f}" + (f" ({t['kept']['share']:.2f})" if name != "exact" else ""))
        t = rows[names[0]]["tasks"][i]
        lines.append(line + [wilson(t["right"], t["asked"])])
    return markdown(["task, tokens", "questions", *(label(n) for n in names), "95 %, full cache"], lines)


def depth_table(rows):
    names = list(rows)
    lines = []
    for depth in range(10):
        line = [depth]
        for name in names:
            here = [c for c in rows[name]["cells"] if c["depth"] == depth]
            asked, right = sum(c["asked"] for c in here), sum(c["right"] for c in here)
            line += [f"{right} of {asked} ({wilson(right, asked)})"] if asked else [""]
        lines.append(line)
    return markdown(["depth, tenths", *(label(n) for n in names)], lines)


def ablation_table(rows):
    lines = []
    for name, row in rows.items():
        total, exact = row["total"], row["total"]["exact"]
        niah = pooled(row, lambda task: family(task) == NIAH)
        lines.append([name, f"{row['ratio']:.3f}", f"{total['kept']['share']:.3f}", f"{total['right']} of {total['asked']}",
                      f"{total['exact_match']:.3f}", points(row["difference"]), f"{niah['right']} of {niah['asked']}",
                      f"{exact['kl']:.4f}", f"{exact['agreement']:.4f}"])
    return markdown(["variant", "target", "kept", "right", "share", "points against the full cache", "NIAH", "KL", "top-1"], lines)


def peers_table(results):
    lines = []
    for ratio in [r for r in results["main"] if r != "exact"]:
        rows = {name: peer[ratio] for name, peer in results["peers"]["rows"].items() if ratio in peer}
        if not rows:
            continue
        rows = {"full cache": of_documents(results["main"]["exact"], results["peers"]["documents"]),
                "ours": of_documents(results["main"][ratio], results["peers"]["documents"])} | rows
        for name, row in rows.items():
            all_ = pooled(row, lambda task: True)
            niah = pooled(row, lambda task: family(task) == NIAH)
            lines.append([ratio, name, f"{all_['kept']:.3f}", f"{all_['right']} of {all_['asked']}",
                          f"{all_['right'] / all_['asked']:.3f}", wilson(all_["right"], all_["asked"]),
                          f"{niah['right'] / niah['asked']:.3f}" if niah else ""])
    return markdown(["row", "method", "kept", "right", "share", "95 %", "NIAH"], lines)


def verdict(ok, text, factor, wanted):
    """A target that is met where less was taken away than it asks for is not met: that is said."""
    return [text, "**not met**" if not ok else "met" if factor >= CLOSE * wanted else f"met at {factor:.1f}x, not shown at {wanted}x"]


def nearest(rows, wanted):
    """The row, and the lengths in it, that were made at least so many times smaller, of most questions; or the smallest."""
    found = []
    for name, row in rows.items():
        for lengths in sorted({t["length"] for t in row["tasks"]}), *([n] for n in {t["length"] for t in row["tasks"]}):
            part = {"tasks": [t for t in row["tasks"] if t["length"] in lengths]}
            all_ = pooled(part, lambda task: True)
            enough = 1 / all_["kept"] >= CLOSE * wanted
            found.append((enough, all_["asked"] if enough else 1 / all_["kept"], name, lengths, part))
    return max((f for f in found if f[2] != "exact"), key=lambda f: f[:2])


def targets_table(results):
    lines = []
    for wanted, niah_least, kl_most in ((4, 0.99, 0.02), (8, 0.95, 0.1)):
        _, _, name, lengths, part = nearest(results["main"], wanted)
        niah, vt, all_ = (pooled(part, member) for member in (
            lambda task: family(task) == NIAH, lambda task: family(task) == "variable tracking", lambda task: True))
        factor = 1 / all_["kept"], wanted
        place = f"{label(name)}, {' '.join(map(str, lengths))} tokens: {factor[0]:.1f}x, {all_['asked']} questions"
        if niah:
            share = niah["right"] / max(niah["exact_right"], 1)
            lines.append([f"{wanted}x", *verdict(share >= niah_least, f"NIAH: {share:.3f} of the full cache's exact match ({niah['right']} and "
                                                 f"{niah['exact_right']} of {niah['asked']}), wanted {niah_least}", *factor), place])
        if vt and wanted == 4:
            share = vt["right"] / max(vt["exact_right"], 1)
            lines.append([f"{wanted}x", *verdict(share >= 0.97, f"variable tracking: {share:.3f} of the full cache's ({vt['right']} and "
                                                 f"{vt['exact_right']} of {vt['asked']}), wanted 0.97",
                                                 *factor), place])
        lines.append([f"{wanted}x", *verdict(all_["kl"] <= kl_most, f"KL {all_['kl']:.4f}, wanted at most {kl_most}", *factor), place])
    return markdown(["at", "target", "", "measured on"], lines + peer_targets(results) + [
        ["4x", "perplexity at most 1 % higher", "measured apart, on real text: [perplexity.md](perplexity.md)", ""]])


def peer_targets(results):
    """KVzip is a reference that reads the document twice; the others evict."""
    lines = []
    for ratio, rows in results["main"].items():
        peers = {n: p[ratio] for n, p in results.get("peers", {}).get("rows", {}).items() if ratio in p and n != "None"}
        if not peers:
            continue
        own = pooled(of_documents(rows, results["peers"]["documents"]), lambda task: True)
        factor, place = 1 / own["kept"], f"{label(ratio)}, {own['asked']} questions"
        own = own["right"] / own["asked"]
        shares = {n: sum(t["right"] for t in p["tasks"]) / sum(t["asked"] for t in p["tasks"]) for n, p in peers.items()}
        if "KVzip" in shares:
            lines.append(["4x", *verdict(own >= shares["KVzip"] - 0.01, f"{own:.3f} of the answers right, KVzip "
                                         f"{shares['KVzip']:.3f}; wanted within a point", factor, 4), place])
        evicting = {n: v for n, v in shares.items() if n != "KVzip"}
        if evicting:
            best = max(evicting, key=evicting.get)
            lines.append(["8x", *verdict(own > evicting[best], f"{own:.3f} of the answers right, best evicting method {best} "
                                         f"{evicting[best]:.3f}; wanted above", factor, 8), place])
    return lines


def code(text):
    return "`" + text.replace("|", "\\|").replace("`", "'").replace("\n", "\\n") + "`" if text else "nothing"


def failures_table(row):
    """Those that the full cache answers right; as many of each task as there are, in turn."""
    lost = [f for f in row["failures"] if f["exact_got"].strip() == f["wanted"]]
    by_task = {}
    for f in lost:
        by_task.setdefault(f["task"], []).append(f)
    turns = [f for i in range(SHOWN) for fs in by_task.values() for f in fs[i:i + 1]]
    lines = [[f["id"], f["question"], code(f["wanted"]), code(f["got"].strip())] for f in turns[:SHOWN]]
    return len(lost), markdown(["document", "question", "wanted", "got"], lines)


def page(results):
    made, main, ablations = results["made"], results["main"], results.get("ablations")
    n_lost, failures = failures_table(main["0.25"] if "0.25" in main else list(main.values())[-1])
    rows = len(list(main.values())[0]["documents"])
    parts = [
        "# Quality: exact and compressed answers",
        f"{made['date']}, {made['version']}, {made['cpu']}, CPU backend, one rank; model {made['model']} "
        f"(fingerprint {made['fingerprint'][:16]}), weights {made['weight_dtype']}, cache {made['kv_dtype']}, thresholds from "
        f"{'a built-in text' if made['calibration_builtin'] else 'the file beside the model'}. Made by",
        "```\n" + made["command"] + "\n```",
        "which writes this page and `quality/results.json`; no number here is typed by hand. Documents and questions are "
        "those of `bench/quality_suites.py --ask-all`: names and numbers, and except where a task says otherwise wordings, "
        "are held out from training. Each document is compressed before any question is known, and asked about several times. "
        "*Kept* is measured: entries at the end of each request, sinks, the exact window, question and answer included, over "
        "those of an exact cache, summed over all requests (*mean*: averaged, so that short documents weigh as much). The "
        "target ratio counts compressed chunks alone, so it is smaller. KL and top-1 agreement are taken at the tokens of the "
        "full cache's answers; KL is a lower bound from 20 likeliest tokens (`man semcache`, bench quality).",
        f"## All tasks\n\n{rows} documents.",
        main_table(main),
        "Points against the full cache come with a 95 % interval from a paired bootstrap over documents.",
        "![exact match against kept entries](quality/kept.svg)",
        "## Targets",
        "What was to be shown at 4x and at 8x, sinks, window, exact layers, question and answer counted. Judged on the row, and the "
        "lengths in it, that kept that little; where none did, on what kept least.", targets_table(results),
        "## By task and length", "Exact match (kept).", task_table(main),
        "## By depth", "![exact match by depth and length](quality/depth.svg)", depth_table(main)]
    if ablations:
        suite, first = results["suites"]["ablations"], list(ablations.values())[0]
        parts += ["## What each part does",
                  f"One change at a time, on {suite['tasks'].replace(',', ', ')} of {suite['lengths'].replace(',', ' and ')} tokens. "
                  "The target ratio of each variant was searched such that it keeps as many entries as the default does at "
                  f"{first['ratio']}, measured on one document; where none comes as low, *kept* says so. exact_then_compress compresses behind the question: "
                  "question and first answer token saw the exact cache, which no cache that is asked twice has. The full cache has "
                  f"{first['total']['exact']['right']} of {first['total']['asked']} right.",
                  ablation_table(ablations)]
    if "bare" in results:
        parts += ["The same with outliers merged, as many entries as the default then keeps at "
                  f"{list(results['bare'].values())[0]['ratio']}: the other parts have to carry everything.", ablation_table(results["bare"])]
    if "peers" in results:
        p = results["peers"]
        parts += ["## Other methods",
                  f"kvpress {p['kvpress']} on transformers {p['transformers']}, the same weights in {p['dtype']}, made by `bench/quality_peers.py`: "
                  "the document is compressed before any question, to the share of entries that ours measured on the same "
                  f"document. {len(p['documents'])} documents of these tasks: {', '.join(p['tasks'])}. Full cache and ours: the rows above, "
                  "on these documents alone.", peers_table(results)]
    parts += ["## Failures",
              f"Of the answers that the full cache has right, {n_lost} are lost at target 0.25; the first of each task in turn. "
              "`quality/results.json` has more.", failures,
              "## What this does not show",
              "A small model on made-up text: filler from templates merges easily, and its mean key, which comes from text of the same "
              "kind with other names, tells it from facts better than that of real prose would. Intervals are wide "
              "where few questions were asked. Nothing is claimed for other models."]
    return "\n\n".join(parts) + "\n"
