"""O: what is told of the service to those who watch it, and a log that nobody reads."""

from __future__ import annotations

import fcntl
import json
import os
import random
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.adapters.metrics.publish import Catalogue
from ipa.api.context import HttpMetrics
from ipa.metering.make import new_registry
from tests.fakes.promtool import alert_names, alerted_series, alerts_over, needs_promtool
from tests.fakes.services import ApiClient, FakeWorld
from tests.fakes.world import PIPELINE
from tests.faults.alerted import FAULTS, Fault, apart
from tests.faults.blocked import LINES_A_TICK
from tests.faults.table import Case, variants

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "BREW", "X" * 40)
ALPHABET = string.ascii_letters + string.digits + "/%.{}-_~"


def test_o1_requests_cannot_make_series(case: Case) -> None:
    """Paths, methods, names, ids, queries and headers that no one would foresee."""
    registry = new_registry()
    Catalogue(registry, (PIPELINE,))
    services = replace(FakeWorld().play(3).services(), registry=registry, http=HttpMetrics(registry))
    api, dice = ApiClient(services), random.Random(1)

    def series() -> int:
        return sum(len(family.samples) for family in registry.collect())

    def text(most: int) -> str:
        return "".join(dice.choice(ALPHABET) for _ in range(dice.randint(1, most)))

    def ask(times: int) -> None:
        for _ in range(times):
            path = dice.choice(("/", "/v1/pipelines/", "/v1/decisions/", "/assets/", "/problems/")) + text(60)
            headers = {"X-Request-Id": text(30), "User-Agent": text(30)}
            api(dice.choice(METHODS), path, params={text(8).strip("%"): text(20)}, headers=headers)

    before = series()
    ask(500)
    case.note("requests", 500)
    case.note("series", before)
    case.equal("additional series", series() - before, 0)
    routes = {sample.labels.get("route", "") for family in registry.collect() for sample in family.samples}
    known = {"", "unmatched", "/assets", "/openapi.json", *_templates()}
    case.equal("routes that are not templates", sorted(routes - known), [])


def _templates() -> set[str]:
    from ipa.api.app import openapi_document

    return {*openapi_document()["paths"], "/", "/problems/{code}"}


@needs_promtool
@pytest.mark.parametrize("fault", variants(*apart(FAULTS)), ids=lambda fault: f"{fault.row}: {fault.what}")
def test_o3_its_alert_and_no_other(case: Case, fault: Fault, tmp_path: Path) -> None:
    """Recall and precision are 1 over all faults. What is true beside that counts for neither."""
    made = fault.made()
    made.scraped.only = alerted_series()
    fired = alerts_over(made.run(), made.duration_s, tmp_path)
    case.note("fault", f"{fault.row}: {fault.what}")
    case.note("fires", ", ".join(sorted(fired)) or "nothing")
    case.equal("missing", sorted(fault.fires - fired), [])
    case.equal("false", sorted(fired - fault.fires - fault.may), [])


def test_o3_faults_ask_for_the_alerts_there_are(case: Case) -> None:
    expected = {name for fault in FAULTS for name in fault.fires}
    case.note("faults", len(FAULTS))
    case.note("faults without an alert", sum(not fault.fires for fault in FAULTS))
    case.note("alerts", len(alert_names()))
    # Of pods that stay pending: ours are taken back before it fires. Of a disk nearly full: no fault yet.
    never = ["IpaReplicasNotReady", "IpaStoreDegraded"]
    case.equal("alerts without a fault", sorted(set(alert_names()) - expected), never)


# A pipe holds a page at least.
PIPE_BYTES = 4096
BLOCKED_TICKS = 100


def test_o4_a_log_that_nobody_reads(case: Case, root: Path) -> None:
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.blocked", str(BLOCKED_TICKS)],
        cwd=root,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=writes,
        text=True,
    )
    os.close(writes)
    assert run.stdout is not None and run.stdin is not None
    # The pipe is full all this while; without the queue not even the hundredth line would be written.
    figures = json.loads(run.stdout.readline())
    case.equal("ticks", figures["ticks"], BLOCKED_TICKS)
    case.note("tick p99 ms", 1000 * figures["p99_s"])
    case.at_least("lines dropped and counted", figures["dropped"], 1)
    with os.fdopen(reads, "rb") as pipe:
        run.stdin.write("end\n")
        run.stdin.flush()
        lines = [json.loads(line) for line in pipe]
    case.equal("exit code", run.wait(300), 0)
    run.stdin.close()
    run.stdout.close()
    logged = LINES_A_TICK * BLOCKED_TICKS
    case.at_least("lines accounted for", len(lines) + figures["dropped"], logged)
    case.equal("last line after reading resumes", lines[-1]["message"], "the end")
    assert lines[0]["message"].startswith(PIPELINE.name)


def test_o4_it_ends_though_nobody_ever_reads(case: Case, root: Path) -> None:
    reads, writes = os.pipe()
    fcntl.fcntl(writes, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    run = subprocess.Popen(
        [sys.executable, "-m", "tests.faults.blocked", "5"],
        cwd=root,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=writes,
    )
    os.close(writes)
    case.equal("exit code", run.wait(60), 0)
    os.close(reads)
