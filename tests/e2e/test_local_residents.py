"""Resident variants on real model servers: switched between in place, under load, with no failed request."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from ipa.control.ports import RolloutPhase
from ipa.dataplane.http import BUDGET_HEADER
from ipa.files import load_profiles
from ipa.files.pipelines import load_pipeline
from ipa.model.measured import with_profiles
from ipa.model.pipeline import Pin, Pipeline, StageBounds
from ipa.model.plan import StageConfig
from ipa.policies.base import pinned
from ipa.targets.local.target import LOCAL
from ipa.targets.local.workload import LocalWorkload
from tests.e2e.test_local_digits import Load, canvas, carry_out, change
from tests.fakes.waiting import until

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]

START = (StageConfig("locate", "logistic", 1, 0.5, 1), StageConfig("classify", "tree", 1, 0.5, 1))


@pytest.fixture(scope="module")
def digits(root: Path) -> Pipeline:
    """All variants of the first stage are resident, two of the second's three."""
    made = load_pipeline(root / "pipelines" / "digits" / "pipeline.yaml")
    locate, classify = made.stages
    # Batches that cannot grow so far that the slowest variant serves a burst in time.
    locate = replace(locate, resident="all", bounds=StageBounds(batch_sizes=(1, 2, 4)))
    stages = (locate, replace(classify, resident=2))
    profiles = load_profiles(root / "profiles", "digits")
    # Changes are to lose no request; by its file it would drop them at 150 ms.
    return with_profiles(replace(made, stages=stages, drop_after_s=5.0), profiles)


@pytest.fixture(scope="module")
def workload(
    digits: Pipeline, tmp_path_factory: pytest.TempPathFactory, root: Path
) -> Iterator[LocalWorkload]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        running = LocalWorkload(tmp_path_factory.mktemp("resident"))
        running.start(digits, START)
        yield running
        running.stop()


def loaded(workload: LocalWorkload, stage: str) -> list[set[str]]:
    """The variants that each of the stage's servers has, as it says."""
    runner = workload.runner("digits")
    variants = []
    for pid in runner.pids(stage):
        ports = {it.laddr.port for it in psutil.Process(pid).net_connections() if it.status == "LISTEN"}
        (models,) = filter(None, map(index, sorted(ports)))
        variants.append({it["name"].partition("--")[2] for it in models if it["state"] == "READY"})
    return variants


def index(port: int) -> list[dict[str, str]]:
    """The models of the server at the port; none from its ports of gRPC and metrics."""
    try:
        answer = httpx.post(f"http://127.0.0.1:{port}/v2/repository/index", json={}, trust_env=False)
    except httpx.RemoteProtocolError:
        return []
    return answer.json() if answer.is_success else []


def changed_s(workload: LocalWorkload, digits: Pipeline, name: str, locate: StageConfig, load: Load) -> float:
    """The time that a change of the first stage took, with requests sent after it."""
    wanted = change(workload, digits, name, locate, START[1])
    began_s = time.monotonic()
    assert carry_out(workload, digits, wanted) is RolloutPhase.READY
    took_s = round(time.monotonic() - began_s, 3)
    load.wait_for_more(20)
    return took_s


def test_a_switch_under_load_takes_no_process_and_fails_no_request(
    workload: LocalWorkload, digits: Pipeline
) -> None:
    runner = workload.runner("digits")
    until(lambda: loaded(workload, "locate") == [{"ridge", "logistic", "ensemble"}])
    before = runner.pids("locate"), runner.pids("classify")
    took_s = {}
    with Load(runner.endpoint) as load:
        for variant, batch_size in (("ridge", 4), ("ensemble", 1), ("logistic", 2)):
            config = StageConfig("locate", variant, batch_size, 0.5, 1)
            took_s[variant] = changed_s(workload, digits, variant, config, load)
            assert (runner.pids("locate"), runner.pids("classify")) == before
    assert set(load.statuses) == {200}
    print(json.dumps({"requests": len(load.statuses), "switch_s": took_s}))


def test_other_cores_take_no_process_and_fail_no_request(workload: LocalWorkload, digits: Pipeline) -> None:
    runner = workload.runner("digits")
    before = runner.pids("locate"), runner.pids("classify")
    first_s, took_s = runner.core_seconds, {}
    with Load(runner.endpoint) as load:
        for cores in (0.25, 1.0, 0.5):
            config = StageConfig("locate", "logistic", 4, cores, 1)
            took_s[cores] = changed_s(workload, digits, f"{cores:g}", config, load)
            assert (runner.pids("locate"), runner.pids("classify")) == before
    assert set(load.statuses) == {200}
    assert runner.core_seconds > first_s
    print(json.dumps({"requests": len(load.statuses), "cores_s": took_s}))


def test_a_burst_that_would_be_late_is_served_by_lighter_variants(
    workload: LocalWorkload, digits: Pipeline
) -> None:
    """160 requests at once take the ensemble 2 s or more on half a core; they have 1 s."""
    runner = workload.runner("digits")
    # Quick enough for all of them.
    classify = replace(START[1], batch_size=16)
    until(lambda: loaded(workload, "locate") == [{"ridge", "logistic", "ensemble"}])
    wanted = change(workload, digits, "slow", StageConfig("locate", "ensemble", 1, 0.5, 1), classify)
    assert carry_out(workload, digits, wanted) is RolloutPhase.READY
    url = f"{runner.endpoint}/v2/models/digits/infer"

    async def burst(count: int) -> list[int]:
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client:
            sent = (client.post(url, json=canvas(1), headers={BUDGET_HEADER: "1000"}) for _ in range(count))
            answers = await asyncio.gather(*sent)
            return [answer.status_code for answer in answers]

    # The first tell the queue how long a batch takes.
    for count in (1, 1):
        assert asyncio.run(burst(count)) == [200] * count
    before = answered(runner.scrape_targets, "locate", "ridge", "logistic")
    # The ensemble alone serves some 60 in time; a machine that stands still for a moment costs a few.
    assert asyncio.run(burst(160)).count(200) >= 120
    served = answered(runner.scrape_targets, "locate", "ridge", "logistic") - before
    assert 40 <= served <= 160, served


def test_heavier_variants_serve_while_there_is_time_unless_a_person_pins_one(
    workload: LocalWorkload, digits: Pipeline
) -> None:
    runner = workload.runner("digits")
    wanted = change(workload, digits, "light", StageConfig("locate", "ridge", 1, 0.5, 1), START[1])
    assert carry_out(workload, digits, wanted) is RolloutPhase.READY
    until(lambda: loaded(workload, "locate") == [{"ridge", "logistic", "ensemble"}])
    url = f"{runner.endpoint}/v2/models/digits/infer"

    def by_heavier(count: int) -> float:
        before = answered(runner.scrape_targets, "locate", "logistic", "ensemble")
        with httpx.Client(timeout=30, trust_env=False) as client:
            for _ in range(count):
                assert client.post(url, json=canvas(1)).status_code == 200
        return answered(runner.scrape_targets, "locate", "logistic", "ensemble") - before

    # The first tells the queue how quick the machine is, and a busy one has no time for all of them.
    until(lambda: by_heavier(10) >= 5)
    workload.read(pinned(digits, [("locate", Pin(variant="ridge"))]))
    until(lambda: by_heavier(10) == 0)
    assert by_heavier(20) == 0
    workload.read(digits)
    until(lambda: by_heavier(10) >= 5)


def answered(targets: list[str], stage: str, *variants: str) -> float:
    """The items of the stage that these variants have answered."""
    texts = [httpx.get(f"http://{target}/metrics", trust_env=False).text for target in targets]
    names = [
        f'ipa_queue_variant_items_total{{pipeline="digits",stage="{stage}",variant="{variant}"}} '
        for variant in variants
    ]
    return sum(
        float(line.removeprefix(name))
        for name in names
        for text in texts
        for line in text.splitlines()
        if line.startswith(name)
    )


def test_only_as_many_variants_as_planned_are_loaded_and_any_can_be_switched_to(
    workload: LocalWorkload, digits: Pipeline
) -> None:
    runner = workload.runner("digits")
    until(lambda: loaded(workload, "classify") == [{"tree", "logistic"}])
    before = runner.pids("classify")
    locate = workload.read(digits).stages[0].config
    with Load(runner.endpoint) as load:
        # It is not loaded yet, and takes the place of one that does not run.
        wanted = change(workload, digits, "far", locate, replace(START[1], variant="forest"))
        assert carry_out(workload, digits, wanted) is RolloutPhase.READY
        load.wait_for_more(20)
        until(lambda: loaded(workload, "classify") == [{"forest", "logistic"}])
        assert (
            carry_out(workload, digits, change(workload, digits, "near", locate, START[1]))
            is RolloutPhase.READY
        )
        load.wait_for_more(20)
    assert set(load.statuses) == {200}
    assert runner.pids("classify") == before


def test_more_replicas_of_a_heavier_variant_serve_before_the_lighter_one_goes(
    workload: LocalWorkload, digits: Pipeline
) -> None:
    runner = workload.runner("digits")
    classify = workload.read(digits).stages[1].config
    (first,) = runner.pids("locate")
    with Load(runner.endpoint) as load:
        wanted = change(workload, digits, "two", StageConfig("locate", "ensemble", 4, 0.5, 2), classify)
        assert carry_out(workload, digits, wanted) is RolloutPhase.READY
        assert first in runner.pids("locate") and len(runner.pids("locate")) == 2
        wanted = change(workload, digits, "one", StageConfig("locate", "ridge", 4, 0.5, 1), classify)
        assert carry_out(workload, digits, wanted) is RolloutPhase.READY
        assert len(runner.pids("locate")) == 1
    assert set(load.statuses) == {200}


def test_variants_that_cannot_share_a_process_are_refused(digits: Pipeline) -> None:
    assert LOCAL.unhonoured(digits) == []
    locate, classify = digits.stages
    run = replace(locate.variants[0].targets["local"], env={"THREADS": "2"})
    variants = (replace(locate.variants[0], targets={"local": run}), *locate.variants[1:])
    (fault,) = LOCAL.unhonoured(replace(digits, stages=(replace(locate, variants=variants), classify)))
    assert str(fault).startswith(
        "resident: variants of locate have a command, or an environment, of their own"
    )
