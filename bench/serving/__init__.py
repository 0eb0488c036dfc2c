"""The scenarios of bench/serving_results.py: measure(bench) gives a result, table(result) Markdown of it."""

from serving import crowd, documents, lookup, mixed, policies, restart, sharing, streams, ttft

SCENARIOS = {
    "ttft": ttft,
    "restart": restart,
    "documents": documents,
    "streams": streams,
    "mixed": mixed,
    "crowd": crowd,
    "lookup": lookup,
    "policies": policies,
    "sharing": sharing,
}
