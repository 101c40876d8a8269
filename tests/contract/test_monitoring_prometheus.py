"""The dashboard and the rules, asked of a real Prometheus that holds a simulated run of the service."""

from __future__ import annotations

import json
import math
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.metering import table
from ipa.metering.metric import MetricsEndpoint
from ipa.model.measured import with_profiles
from ipa.model.resources import CORES, Prices
from tests.fakes.monitored import SCRAPE_S, Monitored
from tests.fakes.promtool import promtool
from tests.fakes.world import PIPELINE, PROFILES
from tools.monitoring.alerts import ALERTS
from tools.monitoring.dashboard import queries
from tools.monitoring.rules import recordings

pytestmark = [
    pytest.mark.xdist_group("prometheus"),
    pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs Debian's package prometheus"),
]
ROOT = Path(__file__).resolve().parents[2]
BOARD = json.loads((ROOT / "deploy" / "grafana" / "ipa.json").read_text())
# Any day does, as long as all of the run is in one block of two hours.
EPOCH_S = 1_767_225_600.0
LENGTH_S = 900
READY_S = 300.0
# As Grafana fills them in.
FILLED = {"$__rate_interval": "1m", "$__range": "15m", "$namespace": ".*", "$pipeline": "pages"}


def monitored() -> Monitored:
    """A run with changes, under a load that rises and falls; the API is asked too."""
    rates = [3.0 + 6.0 * abs((second / 225.0) % 2 - 1) for second in range(LENGTH_S)]
    priced = replace(PIPELINE, prices=Prices({CORES: 0.04}, is_money=True))
    priced = with_profiles(priced, PROFILES)
    made = Monitored(rates, pipeline=priced, forecast="ladder", epoch_s=EPOCH_S)
    made.at = [
        (float(at_s), partial(made.http.answered, "/v1/pipelines", "GET", 200, 0.01))
        for at_s in range(5, LENGTH_S, 5)
    ]
    return made


class Prometheus:
    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, trust_env=False, timeout=300)

    def range(self, query: str) -> list[dict[str, Any]]:
        """The series over the run; an error where it is no PromQL."""
        params = {"query": query, "start": EPOCH_S, "end": EPOCH_S + LENGTH_S, "step": SCRAPE_S}
        answer = self._client.get("/api/v1/query_range", params=params).json()
        assert answer["status"] == "success", f"{query}: {answer}"
        series: list[dict[str, Any]] = answer["data"]["result"]
        return series

    def is_ready(self) -> bool:
        try:
            return self._client.get("/-/ready").is_success
        except httpx.HTTPError:
            return False

    def close(self) -> None:
        self._client.close()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    folder = tmp_path_factory.mktemp("prometheus")
    text = folder / "run.om"
    text.write_text("\n".join(monitored().run().openmetrics(EPOCH_S)) + "\n")
    made = promtool("tsdb", "create-blocks-from", "openmetrics", str(text), str(folder / "data"), cwd=folder)
    assert made.returncode == 0, made.stdout + made.stderr
    (folder / "prometheus.yml").write_text("scrape_configs: []\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address={address}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        server = Prometheus(f"http://{address}")
        try:
            deadline_s, pause = time.monotonic() + READY_S, threading.Event()
            while not server.is_ready():
                assert process.poll() is None and time.monotonic() < deadline_s, "it does not start"
                pause.wait(0.05)
            yield server
        finally:
            server.close()
            process.kill()


def numbers(series: list[dict[str, Any]]) -> list[float]:
    values = [float(value) for each in series for _, value in each["values"]]
    return [value for value in values if not math.isnan(value)]


def filled(query: str) -> str:
    for variable, value in FILLED.items():
        query = query.replace(variable, value)
    assert "$" not in query, f"not filled in: {query}"
    return query


def test_every_query_of_the_dashboard_has_numbers(prometheus: Prometheus) -> None:
    expressions = queries(BOARD)
    assert len(expressions) > 30
    assert [query for query in expressions if not numbers(prometheus.range(filled(query)))] == []


def test_plots_are_of_what_happened(prometheus: Prometheus) -> None:
    """The dashboard's own queries, so that a sum over the wrong labels would be seen."""
    plots = {
        (panel["title"], target["legendFormat"]): target["expr"]
        for panel in BOARD["panels"]
        for target in panel.get("targets", [])
    }

    def plotted(title: str, legend: str) -> list[dict[str, Any]]:
        return prometheus.range(filled(plots[title, legend]))

    rates = numbers(plotted("Load seen and forecast", "seen"))
    assert 1.0 < min(rates[4:]) < 5.0 and 7.0 < max(rates) < 13.0
    stages = {each["metric"]["stage"] for each in plotted("Replicas", "{{stage}} ready")}
    assert stages == {"detect", "read"}
    shares = plotted("Variants", "{{stage}}={{variant}}")
    assert {each["metric"]["variant"] for each in shares} <= {"small", "big"}
    assert max(numbers(plotted("Latency and SLA", "SLA"))) == 0.8
    reasons = {each["metric"]["reason"] for each in plotted("Changes, by reason", "{{reason}}")}
    assert "apply.first_plan" in reasons and all(reason.startswith("apply.") for reason in reasons)
    missed = numbers(plotted("Requests that miss the SLA, last hour", "{{pipeline}}"))
    assert 0.0 <= max(missed) < 0.2
    attained = numbers(plotted("Attainment and SLO", "in time"))
    assert 0.8 < max(attained) <= 1.0
    cores = numbers(plotted("Cores, mean of the range shown", "{{pipeline}}"))
    price = numbers(plotted("Price", "an hour"))
    assert 0.04 * min(cores) / 3 < min(price) <= max(price) < 0.04 * max(cores) * 3
    slow = numbers(plotted("Slower than the profile", "{{stage}}={{variant}}"))
    assert 0.9 < min(slow) <= max(slow) < 1.1


def test_every_rule_is_promql_and_every_recording_has_numbers(prometheus: Prometheus) -> None:
    known: dict[str, str] = {}
    for rule in recordings():
        known[rule.name] = f"({whole(rule.expr, known)})"
        assert numbers(prometheus.range(known[rule.name])), rule.name
    for alert in ALERTS:
        prometheus.range(whole(alert.expr, known))


def whole(expr: str, known: dict[str, str]) -> str:
    """The expression with what is recorded written out."""
    for name, recorded in known.items():
        expr = expr.replace(name, recorded)
    return expr


def test_everything_that_was_said_is_there(prometheus: Prometheus) -> None:
    """Every metric of a service on neither Kubernetes nor this machine's own processes.

    Only the loop and the API run here: no record on disk, no stream of events and no log are counted, and
    router and queues stand before toy models, not before model servers.
    """
    elsewhere = ("ipa_record_", "ipa_store_", "ipa_event_streams", "ipa_log_lines")
    absent = [
        name
        for metric in table.METRICS
        if not metric.when and metric.place is not MetricsEndpoint.REPLICA
        for name in metric.series
        if not name.startswith(elsewhere) and not prometheus.range(name)
    ]
    assert absent == []
