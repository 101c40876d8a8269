"""The service times that queues saw, and the profiles that are fitted to them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from experiments.fidelity.__main__ import run_simulated
from experiments.fidelity.case import SEED, Case, case_of
from experiments.fidelity.seen import Total, fitted, means_of, read_totals
from ipa.dataplane.metrics import QueueMetrics
from ipa.model.plan import StageConfig


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of("ocr", 40)


@pytest.fixture
def target() -> Iterator[str]:
    """The address of a queue's metrics after three batches of 0.1, 0.2 and 0.3 s."""
    import prometheus_client

    metrics = QueueMetrics("ocr", "detect")
    for seconds in (0.1, 0.2, 0.3):
        metrics.service_s.observe(seconds)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(prometheus_client.generate_latest(metrics.registry))

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_totals_are_what_the_queues_count(target: str) -> None:
    assert read_totals([target])["detect"].batches == 3
    assert read_totals([target])["detect"].seconds == pytest.approx(0.6)


def test_a_mean_needs_enough_batches() -> None:
    assert Total(30, 3.0).since(Total(10, 1.0)) == pytest.approx(0.1)
    assert Total(29, 3.0).since(Total(10, 1.0)) is None


def test_each_half_is_its_variants_own_without_what_the_change_disturbed(case: Case) -> None:
    first, second = case.before[0].stage, case.before[1].stage

    def totals(batches: float, seconds: float) -> dict[str, Total]:
        return {first: Total(batches, seconds), second: Total(batches, 2 * seconds)}

    before = (StageConfig(first, "a", 1, 1, 1), StageConfig(second, "b", 1, 1, 1))
    after = (StageConfig(first, "c", 1, 1, 1), StageConfig(second, "b", 1, 1, 1))
    changed = Case(case.pipeline, case.profiles, case.times_s, 40, 20, before, after)
    means = means_of(changed, totals(0, 0), totals(100, 10), totals(150, 99), totals(250, 129))
    assert means == pytest.approx({(first, "a"): 0.1, (first, "c"): 0.3, (second, "b"): 0.6})


def test_the_fitted_profiles_have_the_service_times_that_were_seen(case: Case) -> None:
    _, means = run_simulated(case, case.profiles, SEED)
    seen = {key: 1.2 * mean_s for key, mean_s in means.items()}
    slowed, slowdowns = fitted(case.profiles, seen, lambda profiles: run_simulated(case, profiles, SEED)[1])
    figures, again = run_simulated(case, slowed, SEED)
    assert again == pytest.approx(seen, rel=0.02)
    assert {(each.stage, each.variant) for each in slowdowns} == set(seen)
    plain, _ = run_simulated(case, case.profiles, SEED)
    assert figures.latency_p50_s > plain.latency_p50_s
    assert np.isfinite(figures.latency_p99_s)
