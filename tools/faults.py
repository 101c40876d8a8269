"""The cases of docs/explanation/faults.md, which `make reference` writes; `make faults` measures them."""

from __future__ import annotations

GROUPS = {
    "K": "The Kubernetes API server",
    "P": "Prometheus",
    "C": "Clocks",
    "S": "Solvers",
    "A": "Crashes, restarts and the store",
    "L": "Two replicas of the service",
    "W": "Workloads",
    "I": "Inputs",
    "H": "API clients",
    "F": "Forecasts and history",
    "O": "Operation",
    "R": "Attack and growth",
    "G": "A real cluster with Seldon",
    "V": "Reality against the model",
}

# The fault of each case. A new case needs its words here.
FAULTS = {
    "K1": "409 on a patch: once, several times, always",
    "K2": "a failed `test` operation: container renamed or moved",
    "K3": "410 on a watch, as a status or as an event",
    "K4": "429 with and without Retry-After",
    "K5": "500 or 503 for 1 to 20 minutes",
    "K6": "timeouts, connection resets, a body of 1 B/s",
    "K7": "a patch applied, its response lost",
    "K8": "a patch not applied, its response lost",
    "K9": "a watch that stalls silently",
    "K10": "a read older than the service's own write",
    "K11": "truncated JSON, a wrong kind, HTML, a Status with 200",
    "K12": "401, 403, 404 and 422",
    "K13": "the object deleted and recreated during a rollout",
    "K14": "a webhook alters the patch",
    "K15": "a person or a GitOps tool reverts changes",
    "K16": "an expired `continue` token",
    "K17": "random delays of 0 to 5 s per call",
    "P1": "Prometheus down, for one tick to an hour",
    "P2": "absent series",
    "P3": "NaN, ±Inf, negative values, counter resets",
    "P4": "stale samples",
    "P5": "30 % of the scrapes lost",
    "P6": "samples 30 to 120 s late",
    "P7": "several series instead of one",
    "P8": "warnings, partial responses, errors with 200",
    "P9": "a huge or very slow response",
    "P10": "Prometheus flapping",
    "P11": "a load of zero or almost zero",
    "P12": "load spikes, steps, ramps and square waves",
    "V3": "profiles wrong by half; a neighbour takes half of the machine for a minute",
    "V4": "a budget without room for a surge",
    "V5": "the router unseen under rising load",
    "V6": "a constant load for an hour",
    "C1": "the wall clock steps",
    "C2": "the process suspended for a minute",
    "C3": "clock skew of ±5 minutes",
    "C4": "a tick longer than the interval",
    "S1": "an infeasible problem",
    "S2": "the time limit, with and without a plan",
    "S3": "a solver that ignores its limit",
    "S4": "a solver that crashes or is killed",
    "S5": "a missing, expired or too small licence",
    "S6": "a wrong solution",
    "S7": "many optimal plans",
    "S8": "badly scaled weights, very large problems",
    "S9": "HiGHS, Gurobi and enumeration compared",
    "A1": "`kill -9` at every point of a change",
    "A2": "SIGTERM during a write",
    "A3": "disk full, read-only or failing",
    "A4": "a store that is locked, corrupt or of another schema",
    "A5": "an exception in any step, every step run twice",
    "A6": "configuration reloaded during a tick",
    "A7": "the second object of a change refused",
    "L1": "the leader dies",
    "L2": "the leader is suspended past its lease, inside a write",
    "L3": "the leader can write but not renew",
    "L4": "simultaneous start, a create race, clock skew",
    "L5": "the Lease edited or deleted",
    "L6": "two installs control one pipeline",
    "W1": "pods that crash, cannot pull or never become ready",
    "W2": "pods without room on any node",
    "W3": "a failed rollback",
    "W4": "a status stuck at Creating",
    "W5": "replicas that differ between three levels",
    "W6": "a change of replicas only",
    "W7": "an autoscaler on the same Deployment",
    "W8": "real latency ±30 % of the profile",
    "I1": "faults in profiles",
    "I2": "YAML bombs, byte order marks",
    "I3": "malformed JSON",
    "I4": "paths in names, links to files",
    "I5": "a thousand pipelines, invalid graphs",
    "I6": "random mutations of every file",
    "I7": "label values and patterns from users",
    "I8": "markup in names and texts",
    "H1": "missing, expired and forged tokens and keys",
    "H2": "a valid identity in another namespace",
    "H3": "TokenReview or SubjectAccessReview down",
    "H4": "URLs that lead to private addresses",
    "H5": "huge, endless or compressed requests",
    "H6": "Idempotency-Key repeated, concurrent, after a restart",
    "H7": "If-Match missing, stale, `*` or weak",
    "H8": "fuzzing of the whole API",
    "H9": "cross-site requests, framing, foreign hosts",
    "H10": "a flood of plan requests",
    "H11": "control characters in logs and headers",
    "F1": "a forecaster that answers nonsense",
    "F2": "less history than the window",
    "F3": "a load unlike the training trace",
    "F4": "a forecast slower than the tick",
    "F5": "a model file that is missing or executes code",
    "F6": "a slow, full or altered store",
    "O1": "label values from requests",
    "O3": "every fault and its alert",
    "O4": "a blocked standard output",
    "O5": "secrets in the environment, tokens and URLs",
    "O6": "swapped dependencies, locks and wheels",
    "O7": "the effects of an import",
    "O8": "72 hours of random faults in virtual time",
    "R1": "inputs that make a pattern quadratic",
    "R2": "1 000 connections with large or endless requests",
    "R3": "the largest pages from many connections",
    "R4": "duplicate keys, deep or wide JSON and YAML",
    "R5": "malformed headers and tensors on the data plane",
    "R6": "a model server that hangs",
    "R7": "a queue's `/admin/config` from a foreign origin",
    "R8": "a store of 100 pipelines and 30 days",
    "R9": "a name reused by another namespace",
    "R10": "event streams that take all places, a revoked key",
    "R11": "a full disk, a shared SQLite store, a cluster that hangs",
    "R12": "`kill -9` of queues and routers under load",
    "R13": "a `Range` of 31 000 digits, dependencies with known advisories",
    "R14": "idle connections and half requests by the hundred and thousand",
    "R15": "bodies of 60 MB at once",
    "R16": "tensors in wrong shapes, empty lists by the million, compressed bodies",
    "R17": "secrets in every part of every URL and token",
    "R18": "a demo that runs for long, or is stopped for a while",
    "R19": "a queue killed again and again under load",
    "R20": "a plug-in that raises, hangs or plans outside the bounds",
    "R21": "SIGTERM during a tick, a write or housekeeping",
    "R22": "an undo at any moment",
    "R23": "traces and archives that expand, a hostile backup",
    "R24": "unusual proxy headers",
    "G1": "an unready pod, then three times the load",
    "G2": "restarts of the executor after the service's own writes",
    "G3": "objects that the operator rewrites",
    "G4": "no load after a rollout",
    "G5": "a status write between read and patch",
    "G6": "quota, pod security or limits refuse the pods",
    "G7": "a new variant with more replicas at once",
    "G8": "batching at a stage with varying output rows",
    "G9": "a quota that refuses the pods of a change or of its rollback",
    "G10": "restricted PodSecurity, an orchestrator with pods of its own",
    "G11": "replicas and cores that change together under a quota",
    "G12": "touches of webhooks and the operator after an own write",
    "G13": "a start on an empty store",
    "G14": "a step of the load after an own write",
}

HEAD = """# Faults and their effects

The service must survive each of these faults. The tests of a case in `tests/faults` inject it
(`test_k1_...`); `make attack` those of group R that need real sockets. `make faults` runs all cases with full
counts and writes their figures to `runs/faults/table.md`: the bound that each test asserts, the figure, and
that of a plain adapter in the same case, which reads the object, changes it, writes it back, retries failures
and trusts `status.state`.

These invariants hold after *every* step of the tests:

- batch size, variant and replicas are within the profile and the floor;
- cores never exceed the budget, old and new pods together;
- there is no write without leadership, in advisory or shadow mode, while paused or frozen;
- missing, invalid or stale data never lowers capacity;
- at most one change is in flight, and a durable record precedes each write;
- fields of other owners stay byte-identical;
- every hold has a specific reason.
"""


def page() -> str:
    """The page: a list for each group of cases."""
    parts = [HEAD]
    for group, title in GROUPS.items():
        rows = [f"- {case}: {words}" for case, words in FAULTS.items() if case[0] == group]
        parts.append("\n".join([f"## {title}", "", *rows, ""]))
    return "\n".join(parts)
