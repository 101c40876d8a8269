"""O: what is told of the service, to those who watch it."""

from __future__ import annotations

import random
import string
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
