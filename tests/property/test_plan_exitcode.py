"""`ipa plan --detailed-exitcode` is 2 exactly where carrying the plan out would write something."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from ipa.adapters.kube.client import KubeClient
from ipa.cli.main import run
from ipa.files import load_pipeline, load_profiles
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.policies.planning import plan_pipeline
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.manifest_edit import Manifest
from ipa.targets.seldon.variants import at_cluster
from tests.amounts import many
from tests.fakes.kube import FakeKube
from tests.fakes.kube.patching import patch_to

ROOT = Path(__file__).resolve().parents[2]
RATES = (2.0, 8.0, 20.0)


@cache
def video() -> Pipeline:
    return at_cluster(load_pipeline(ROOT / "pipelines" / "video" / "pipeline.yaml"))


@cache
def planned(rate_rps: float) -> tuple[StageConfig, ...]:
    profiles = load_profiles(ROOT / "profiles", "video")
    return plan_pipeline(video(), profiles, rate_rps, solver="exact").configs


@st.composite
def ran(draw: st.DrawFn) -> tuple[StageConfig, ...]:
    """The plan for some rate, with one field another or none."""
    configs = list(planned(draw(st.sampled_from(RATES))))
    at = draw(st.integers(0, len(configs) - 1))
    stage = video().stage(configs[at].stage)
    change = draw(
        st.one_of(
            st.just({}),
            st.builds(lambda count: {"replicas": count}, st.integers(1, 12)),
            st.builds(lambda size: {"batch_size": size}, st.sampled_from((1, 2, 4, 8))),
            st.builds(lambda cores: {"cores": cores}, st.sampled_from((0.5, 1.0, 1.0004, 2.0))),
            st.builds(lambda it: {"variant": it.name}, st.sampled_from(stage.variants)),
        )
    )
    configs[at] = replace(configs[at], **change)
    return tuple(configs)


@pytest.fixture(scope="module")
def kube() -> Iterator[FakeKube]:
    with FakeKube() as made:
        yield made


# A live object has the defaults of the API server, and a manifest may be written by hand.
@settings(max_examples=many(7), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(running=ran(), rate_rps=st.sampled_from(RATES), on_cluster=st.booleans())
@example(running=planned(RATES[0]), rate_rps=RATES[0], on_cluster=True)
@example(running=planned(RATES[0]), rate_rps=RATES[0], on_cluster=False)
@example(running=planned(RATES[0]), rate_rps=RATES[2], on_cluster=True)
def test_two_iff_the_patch_is_not_empty(
    running: tuple[StageConfig, ...],
    rate_rps: float,
    on_cluster: bool,
    kube: FakeKube,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(ROOT / "pipelines"))
    monkeypatch.setenv("IPA_PROFILES_DIR", str(ROOT / "profiles"))
    monkeypatch.setenv("IPA_SOLVER", "exact")
    document = render(video(), running)
    wanted = planned(rate_rps)
    if on_cluster:
        place = ("seldondeployments", "default", "video")
        with kube.store.lock:
            if kube.store.find(*place[:2]):
                kube.store.delete(*place)
            kube.store.create(*place[:2], document)
        at = f"kubernetes:{kube.kubeconfig(tmp_path)}"
        client = KubeClient.from_kubeconfig(at.partition(":")[2], 10.0)
        is_written = bool(patch_to(video(), client.get(SELDON_DEPLOYMENT, *place[1:]), wanted))
        client.close()
    else:
        file = tmp_path / "video.yaml"
        file.write_text(yaml.safe_dump(document, sort_keys=False))
        at = str(file)
        is_written = Manifest(video(), file.read_text(), at).changed(wanted) != file.read_text()
    words = ["plan", "video", "--rate", f"{rate_rps:g}", "--at", at, "--detailed-exitcode"]
    assert run(words) == (2 if is_written else 0)
