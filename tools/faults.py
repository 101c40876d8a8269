"""Writes docs/explanation/faults.md from runs/faults/table.json, which `make faults` writes."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "runs" / "faults" / "table.json"
PAGE = ROOT / "docs" / "explanation" / "faults.md"
FOLDER_OF_A_RUN = re.compile(r"/[^\s\"]*/pytest-\d+/(?:[^\s\"/]*/)*")
# This many different values of one figure are listed; of the others only the count.
MOST_VALUES = 3

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
    "O2": "a slow, failing or hostile webhook receiver",
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
    "R11": "a full disk, a shared SQLite store, an issuer that hangs",
    "R12": "`kill -9` of queues and routers under load",
    "G1": "an unready pod, then three times the load",
    "G2": "restarts of the executor after the service's own writes",
    "G3": "objects that the operator rewrites",
    "G4": "no load after a rollout",
    "G5": "a status write between read and patch",
    "G6": "quota, pod security or limits refuse the pods",
    "G7": "a new variant with more replicas at once",
    "G8": "batching at a stage with varying output rows",
}

HEAD = """# Faults and their effects

Each row is a fault that the service must survive; the tests of that number in `tests/faults` inject it.
`make faults` runs them all, checks the figures and prints them; `python tools/faults.py` writes this page
from the result. A bound in brackets is the limit that a test asserts. The last column has the figures of a
plain adapter in the same case: it reads the object, changes it and writes it back, retries failures, and
trusts `status.state`.

These invariants hold after *every* step of the tests:

- batch size, variant and replicas are within the profile and the floor;
- cores never exceed the budget, old and new pods together;
- there is no write without leadership, in advisory or shadow mode, while paused or frozen;
- missing, invalid or stale data never lowers capacity;
- at most one change is in flight, and a durable record precedes each write;
- fields of other owners stay byte-identical;
- every hold has a specific reason.

"""


def merged(rows: Sequence[Mapping[str, str]]) -> str:
    """The figures of several tests of one row: each name with the different values it has."""
    values: dict[str, list[str]] = {}
    for row in rows:
        for name, value in row.items():
            seen = values.setdefault(name, [])
            if value not in seen:
                seen.append(value)
    return "; ".join(f"{name} {_several(seen)}" for name, seen in values.items())


def _several(values: Sequence[str]) -> str:
    if len(values) <= MOST_VALUES:
        return " / ".join(values)
    return f"{' / '.join(values[:MOST_VALUES])} / … ({len(values)} values)"


def page(entries: Sequence[Mapping[str, Any]]) -> str:
    """The page: a table for each group of cases."""
    lines = [HEAD.rstrip("\n"), ""]
    for group, title in GROUPS.items():
        lines += [
            f"## {title}",
            "",
            "| case | fault | tests | figures | plain adapter |",
            "|---|---|---|---|---|",
        ]
        rows = sorted(
            {entry["row"] for entry in entries if entry["row"][0] == group}, key=lambda row: int(row[1:])
        )
        for row in rows:
            mine = [entry for entry in entries if entry["row"] == row]
            passed = sum(entry["passed"] for entry in mine)
            tests = str(len(mine)) if passed == len(mine) else f"{passed} of {len(mine)} pass"
            figures = merged([it["figures"] | ({"seeds": it["seeds"]} if it["seeds"] else {}) for it in mine])
            cells = (row, FAULTS[row], tests, figures, merged([it["plain"] for it in mine]))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Write the page; 1 if there is no table yet."""
    if not TABLE.is_file():
        print(f"{TABLE} does not exist; `make faults` writes it", file=sys.stderr)
        return 1
    # Folders of one run tell a reader nothing.
    table = FOLDER_OF_A_RUN.sub("", TABLE.read_text(encoding="utf-8"))
    PAGE.write_text(page(json.loads(table)), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
