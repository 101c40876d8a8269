"""The metrics page of a real MLServer with our runtime, started as Seldon's operator starts it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ipa.adapters.processes import free_port
from tests.fakes.exposition import mlserver
from tests.fakes.model_process import model_server

pytest.importorskip("mlserver", reason="needs the extra `local`")

REQUESTS, ROWS, BATCH_SIZE = 12, 3, 4
PATIENCE_S = 300.0
Samples = dict[str, list[tuple[Mapping[str, str], float]]]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page after some requests of some rows each."""
    metrics_port = free_port()
    env = {
        "MLSERVER_METRICS_ENDPOINT": "/prometheus",
        "MLSERVER_MODEL_IMPLEMENTATION": "tests.fakes.fan_out_model.Read",
        **{"MLSERVER_MODEL_MAX_BATCH_SIZE": str(BATCH_SIZE), "MLSERVER_MODEL_MAX_BATCH_TIME": "0.05"},
    }
    with model_server(env, tmp_path_factory.mktemp("mlserver"), "read", metrics_port) as url:
        yield asyncio.run(_page_after(url, f"http://127.0.0.1:{metrics_port}/prometheus"))


async def _page_after(url: str, metrics: str) -> str:
    rows = {"name": "row", "datatype": "INT64", "shape": [ROWS], "data": [*range(ROWS)]}
    async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as client:
        async with asyncio.timeout(PATIENCE_S):
            while not await _is_ready(client, f"{url}/ready"):
                await asyncio.sleep(0.05)
        requests = [client.post(f"{url}/infer", json={"inputs": [rows]}) for _ in range(REQUESTS)]
        for answer in await asyncio.gather(*requests):
            assert answer.status_code == 200, answer.text
        return (await client.get(metrics)).text


async def _is_ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(url)).is_success
    except httpx.HTTPError:
        return False


def samples(text: str) -> Samples:
    by_name: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            by_name.setdefault(sample.name, []).append((sample.labels, float(sample.value)))
    return by_name


def test_it_has_the_series_that_the_loop_reads_with_their_labels(page: str) -> None:
    """And the pages of other tests have them as the real one does."""
    real, ours = samples(page), samples(mlserver("read", 1.0, 1.0, (1.0, 1.0, 1.0)))
    for name, series in ours.items():
        assert [labels for labels, _ in real[name]] == [labels for labels, _ in series], name


def test_batches_are_counted_by_the_runtime_and_requests_by_mlserver(page: str) -> None:
    values = {name: series[0][1] for name, series in samples(page).items()}
    assert values["model_infer_request_duration_count"] == REQUESTS
    assert values["ipa_replica_items_total"] == REQUESTS * ROWS
    assert REQUESTS / BATCH_SIZE <= values["ipa_replica_batches_total"] < REQUESTS
    # Of a request's time in the server its batch takes a part.
    assert 0 < values["ipa_replica_service_seconds_total"] < values["model_infer_request_duration_sum"]


def test_mlservers_own_queue_is_not_served_without_worker_processes(page: str) -> None:
    """The loop does not rely on it; if this fails, it may."""
    assert "batch_request_queue" not in page
