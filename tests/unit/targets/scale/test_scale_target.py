"""The target scale: what it reads of objects of any kind, and that it refuses what it cannot honour."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.queries import Query, Rows
from ipa.adapters.prometheus.scraper import SeriesStore, parse_samples
from ipa.bootstrap.targets import ServeOptions, check_carried
from ipa.files import dump_pipeline, pipeline_from_mapping
from ipa.model.decision import Change
from ipa.model.errors import DriftError, ForbiddenError, InputError, IpaError, NotFoundError, UnavailableError
from ipa.model.observation import Measured
from ipa.model.pipeline import Canary, Pin
from ipa.settings import Settings
from ipa.targets.scale.metrics import GIVEN
from ipa.targets.scale.target import SCALE
from ipa.targets.scale.workload import ScaleWorkload
from tests.fakes.kube import FakeKube
from tests.fakes.scaled import ADVISED, KINDS, SECTION, mapping, put

Json = dict[str, Any]


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with FakeKube(kinds=KINDS) as made:
        yield made


@pytest.fixture
def workload(kube: FakeKube, tmp_path: Path) -> Iterator[ScaleWorkload]:
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
    yield ScaleWorkload(client)
    client.close()


def test_replicas_are_the_objects_and_all_else_is_the_sections(
    kube: FakeKube, workload: ScaleWorkload
) -> None:
    put(kube, "deployments", "pages-detect", 3, {"replicas": 3, "readyReplicas": 2})
    # This kind counts no ready replicas: its pods do.
    put(kube, "rollouts", "pages-read", 2, {"replicas": 2})
    for name, is_ready in (("one", "True"), ("two", "False")):
        pod = {"metadata": {"name": name, "labels": {"app": "pages-read"}}}
        status = {"conditions": [{"type": "Ready", "status": is_ready}]}
        kube.store.create("pods", "shop", {**pod, "status": status})
    kube.writes.clear()
    state = workload.read(ADVISED)
    assert [str(each.config) for each in state.stages] == [
        "detect=small b1 3×1 core",
        "read=big b2 2×2 cores",
    ]
    assert [each.ready_replicas for each in state.stages] == [2, 1]
    # Someone else's change is never waited for.
    assert state.settled and workload.read(ADVISED).revision == state.revision
    put(kube, "deployments", "pages-detect", 4, {"replicas": 3, "unavailableReplicas": 3})
    moved = workload.read(ADVISED)
    assert (moved.stages[0].config.replicas, moved.stages[0].ready_replicas) == (4, 0)
    assert moved.revision != state.revision
    change = Change("d-1", "pages", state.revision, (), (), 300.0)
    with pytest.raises(ForbiddenError, match="does not write Deployment pages-detect, Rollout pages-read"):
        workload.write(ADVISED, change)
    kinds = {("apps", "deployments"), ("argoproj.io", "rollouts")}
    expected = {("get", group, name) for group, kind in kinds for name in (kind, f"{kind}/scale")}
    assert {each for each in kube.verbs if each[2] not in ("discovery", "pods")} == expected
    assert {each[0] for each in kube.verbs} == {"get", "list"} and not kube.writes


@pytest.mark.parametrize(
    ("detect", "kinds", "error", "words"),
    [
        (None, KINDS, NotFoundError, "pages-detect"),
        ((0, {}), KINDS, DriftError, "Deployment shop/pages-detect is scaled to 0"),
        ((-1, {}), KINDS, UnavailableError, "spec.replicas is -1"),
        ((2, {"replicas": 2, "selector": "a in (b)"}), KINDS, UnavailableError, "selects pods by"),
        ((2, {}), None, InputError, "Rollout cannot be scaled: it has no scale subresource"),
    ],
)
def test_what_cannot_be_read_is_said(
    workload: ScaleWorkload,
    kube: FakeKube,
    detect: tuple[int, Json] | None,
    kinds: object,
    error: type[IpaError],
    words: str,
) -> None:
    put(kube, "rollouts", "pages-read", 1, {})
    if detect is not None:
        put(kube, "deployments", "pages-detect", *detect)
    if kinds is None:
        rollouts = KINDS.by_resource["rollouts"]
        assert kube.api.kinds is not None
        kube.api.kinds.by_resource = {**KINDS.by_resource, "rollouts": replace(rollouts, scales=False)}
    with pytest.raises(error, match=words):
        workload.read(ADVISED)


def test_the_load_is_read_by_the_series_of_the_section() -> None:
    store = SeriesStore()
    for second in range(0, 61, 5):
        lines = [f'http_requests_total{{service="pages",code="200"}} {8.0 * second}']
        lines += [f'http_requests_total{{service="pages",code="503"}} {2.0 * second}']
        lines += [f'http_requests_total{{service="other",code="200"}} {100.0 * second}']
        for bound, share in (("0.1", 0.5), ("0.8", 1.0), ("+Inf", 1.0)):
            count = 8.0 * share * second
            lines.append(f'http_request_seconds_bucket{{service="pages",le="{bound}"}} {count}')
        types = "# TYPE http_requests_total counter\n# TYPE http_request_seconds histogram\n"
        page = types + "\n".join(sorted(lines, reverse=True)) + "\n"
        store.add("gateway", float(second), parse_samples(page))

    def ask(query: Query) -> tuple[Rows, float]:
        return store.rows(query, 60.0), 60.0

    metrics = PrometheusMetrics(Settings(), GIVEN, ask=ask, monotonic_s=lambda: 60.0)
    signals = metrics.read(ADVISED, 60.0)
    assert isinstance(signals.arrival_rate_rps, Measured) and isinstance(signals.latency_s, Measured)
    assert signals.arrival_rate_rps.value == pytest.approx(10.0, rel=0.01)
    assert signals.latency_s.value == pytest.approx(0.1 + 0.7 * 0.98, rel=0.01)
    assert isinstance(signals.attainment, Measured)
    assert signals.attainment.value.in_time_ratio == pytest.approx(0.8, rel=0.01)
    assert isinstance(metrics.load(ADVISED, 60.0), Measured)
    # Without a section nothing is known, and nothing is guessed.
    assert not isinstance(metrics.read(replace(ADVISED, targets={}), 60.0).load, Measured)


def test_a_stage_is_pinned_to_what_its_replicas_run() -> None:
    shaped = SCALE.shape(ADVISED, {})
    assert [stage.pin for stage in shaped.stages] == [Pin("small", 1, 1.0), Pin("big", 2, 2.0)]
    assert all(stage.in_replica for stage in shaped.stages)
    assert SCALE.unfit(replace(ADVISED, targets={})) and not SCALE.unfit(ADVISED)
    with pytest.raises(InputError, match="cannot run a new configuration beside"):
        check_carried(SCALE, [replace(ADVISED, canary=Canary())], ServeOptions().policy)


def test_a_file_is_read_back_as_it_was_written() -> None:
    written = yaml.safe_load(dump_pipeline(ADVISED))
    assert pipeline_from_mapping(written) == ADVISED
    assert written["scale"]["load"]["lost"] == 'http_requests_total{service="pages",code=~"5.."}'


def change(*path: str, to: object) -> Callable[[Json], None]:
    def apply(section: Json) -> None:
        *parents, last = path
        for key in parents:
            section = section[key]
        section[last] = to

    return apply


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (change("stages", to={"detect": SECTION["stages"]["detect"]}), "it names no object for read"),
        (change("stages", "also", to=SECTION["stages"]["read"]), "'also' is not a stage with variants"),
        (change("stages", "read", "variant", to="huge"), "variant 'huge' is none of the stage's: small, big"),
        (change("stages", "detect", "cores", to=4), "scaling cannot change cores, which is 4"),
        (change("stages", "read", to=SECTION["stages"]["detect"]), "stage 'detect' has the same object"),
        (change("stages", "read", "kind", to="rollout"), "a kind of object, such as Deployment"),
        (change("load", to={"arrivals": "a", "lost": "b"}), "without `latency` there are no answered"),
        (change("load", "arrivals", to="rate(a[5m])"), "expected the selector of series"),
        (change("load", "arrivals", to='a{b!="c"}'), "a label is selected by = or =~, not by !="),
        (change("load", to={}), "lacks the key 'arrivals'"),
    ],
)
def test_what_a_section_cannot_say_is_an_error_at_its_place(edit: Callable[[Json], None], words: str) -> None:
    with pytest.raises(InputError) as caught:
        pipeline_from_mapping(mapping(edit))
    assert [words in problem.message for problem in caught.value.problems] == [True]
