"""O: what is told of the service, to those who watch it."""

from __future__ import annotations

import random
import string
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ipa.adapters.metrics.catalogue import Catalogue
from ipa.adapters.metrics.http import HttpMetrics
from ipa.metering.make import new_registry
from tests.fakes.promtool import alert_names, alerts_over, needs_promtool
from tests.fakes.services import ApiClient, FakeWorld
from tests.fakes.world import PIPELINE
from tests.faults.alerted import FAULTS, Fault
from tests.faults.table import Case

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
    case.told("requests", 500)
    case.told("series", before)
    case.equal("series more", series() - before, 0)
    routes = {sample.labels.get("route", "") for family in registry.collect() for sample in family.samples}
    known = {"", "unmatched", "/assets", "/openapi.json", *_templates()}
    case.equal("routes that are no template", sorted(routes - known), [])


def _templates() -> set[str]:
    from ipa.api.app import openapi_document

    return {*openapi_document()["paths"], "/", "/docs", "/problems/{code}"}


@cache
def fired(fault: Fault) -> frozenset[str]:
    """The alerts that fire while it lasts."""
    made = fault.made()
    scraped = made.run()
    with TemporaryDirectory() as folder:
        return alerts_over(scraped, made.duration_s, Path(folder))


# One worker runs them all, so that the last of them has what the others found.
alerting = pytest.mark.xdist_group("alerts")


@needs_promtool
@alerting
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: f"{fault.row}: {fault.what}")
def test_o3_its_alert_and_no_other(case: Case, fault: Fault) -> None:
    found = fired(fault)
    case.told("fault", f"{fault.row}: {fault.what}")
    case.told("fires", ", ".join(sorted(found)) or "nothing")
    case.equal("missing", sorted(fault.fires - found), [])
    case.equal("false", sorted(found - fault.fires - fault.may), [])


@needs_promtool
@alerting
@pytest.mark.timeout(300)
def test_o3_precision_and_recall(case: Case) -> None:
    """Over all faults. An alert that is true beside the one that is asked for counts for neither."""
    right = sum(len(fired(fault) & fault.fires) for fault in FAULTS)
    asked = sum(len(fault.fires) for fault in FAULTS)
    false = sum(len(fired(fault) - fault.fires - fault.may) for fault in FAULTS)
    case.told("faults", len(FAULTS))
    case.told("alerts that a fault asks for", f"{len(asked_for())} of {len(alert_names())}")
    case.at_least("recall", right / asked, 1.0)
    case.at_least("precision", right / (right + false), 1.0)


def asked_for() -> set[str]:
    """The alerts that some fault must fire."""
    return {name for fault in FAULTS for name in fault.fires}
