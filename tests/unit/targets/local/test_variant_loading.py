"""Which variants a local replica loads and unloads, and when it switches; its model server is a fake."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from ipa.model.pipeline import Bounds, MeasuredVariant, Objective, Pipeline, Sla, Stage, Variant
from ipa.model.plan import StageConfig
from ipa.targets.local.replica import LEFT_FOR_S, Phase, Replica, VariantLoader, switch
from ipa.targets.local.section import LocalRun

ACCURACIES = {"tiny": 0.5, "small": 0.6, "large": 0.9}
TINY, SMALL, LARGE = (StageConfig("detect", name, 1, 1.0, 1) for name in ACCURACIES)


def pipeline(resident: int | str) -> Pipeline:
    variants = tuple(Variant(name, {"local": LocalRun("shop.Detect")}) for name in ACCURACIES)
    stage = Stage("detect", variants, resident=resident)
    measured = {("detect", name): MeasuredVariant(accuracy) for name, accuracy in ACCURACIES.items()}
    return Pipeline("shop", (stage,), Sla(1.0), {"default": Objective()}, Bounds(measured=measured))


def replica(
    number: int = 1, variant: str = "tiny", phase: Phase = Phase.READY, cores: float = 1.0
) -> Replica:
    return Replica(
        key=f"detect-{number}",
        stage="detect",
        variant=variant,
        cores=cores,
        url=f"http://127.0.0.1:{number}",
        pid=number,
        log=Path("log"),
        started_s=0.0,
        model="detect--{variant}",
        loaded={variant},
        phase=phase,
    )


def resize(one: Replica, cores: float) -> None:
    one.cores = cores


class Loading:
    """A loader whose servers answer at once; `asked` are replica, action and variant of each call."""

    def __init__(self, folder: Path, resident: int | str, broken: str = "") -> None:
        self.asked: list[tuple[str, str, str]] = []
        self._broken = broken
        self._wake = threading.Event()
        client = httpx.Client(transport=httpx.MockTransport(self._answer))
        self.loader = VariantLoader(pipeline(resident), folder, client, self._wake)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        *_, name, action = request.url.path.split("/")
        variant = name.removeprefix("detect--")
        self.asked.append((f"detect-{request.url.port}", action, variant))
        return httpx.Response(400, text="no such file") if variant == self._broken else httpx.Response(200)

    def follow(self, config: StageConfig, *replicas: Replica) -> list[tuple[str, str, str]]:
        """The calls that follow from it, one after the other until there are no more."""
        before = len(self.asked)
        while True:
            made = len(self.asked)
            self._wake.clear()
            self.loader.follow(config, replicas)
            if not self.loader._busy:
                return self.asked[before:]
            assert self._wake.wait(10.0) and len(self.asked) > made


@pytest.fixture
def loading(tmp_path: Path) -> Callable[..., Loading]:
    return lambda resident, broken="": Loading(tmp_path, resident, broken)


def test_the_neighbours_are_loaded_beside_the_variant_that_runs(loading: Callable[..., Loading]) -> None:
    one, starting = replica(), replica(2, phase=Phase.STARTING)
    assert loading("all").follow(TINY, one, starting) == [
        ("detect-1", "load", "small"),
        ("detect-1", "load", "large"),
    ]
    assert (one.loaded, starting.loaded) == (set(ACCURACIES), {"tiny"})


def test_no_more_are_loaded_than_planned_and_none_that_was_left_a_moment_ago(
    loading: Callable[..., Loading], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("ipa.targets.local.replica.time.monotonic", lambda: clock[0])
    one, made = replica(), loading(2)
    assert made.follow(TINY, one) == [("detect-1", "load", "small")]
    assert made.follow(LARGE, one) == [("detect-1", "unload", "small"), ("detect-1", "load", "large")]
    switch(pipeline(2), LARGE, [one], resize)
    assert one.variant == "large"
    # A batch may still be at the variant before it.
    assert made.follow(LARGE, one) == []
    clock[0] += LEFT_FOR_S
    assert made.follow(LARGE, one) == [("detect-1", "unload", "tiny"), ("detect-1", "load", "small")]
    assert one.loaded == {"large", "small"}


def test_a_variant_that_does_not_load_is_named_and_tried_again_when_asked_for(
    loading: Callable[..., Loading],
) -> None:
    one, made = replica(), loading("all", broken="large")
    made.follow(LARGE, one)
    assert made.loader.failure(LARGE, [one]) == (
        "detect-1 cannot load large: the server answered 400: no such file"
    )
    assert made.loader.failure(SMALL, [one]) == "" and one.loaded == {"tiny", "small"}
    assert made.follow(LARGE, one) == []
    made.loader.adopt(pipeline("all"))
    assert made.follow(LARGE, one) == [("detect-1", "load", "large")]


@pytest.mark.parametrize(
    ("config", "replicas", "ran", "runs"),
    [
        # Quicker: at once, with as many as there are.
        (StageConfig("detect", "tiny", 1, 1.0, 3), 1, "large", "tiny"),
        # More accurate: once there are enough.
        (StageConfig("detect", "large", 1, 1.0, 3), 2, "tiny", "tiny"),
        (StageConfig("detect", "large", 1, 1.0, 2), 2, "tiny", "large"),
        # Of other threads.
        (StageConfig("detect", "large", 1, 2.0, 2), 2, "tiny", "tiny"),
        # With other cores of as many threads.
        (StageConfig("detect", "large", 1, 0.5, 2), 2, "tiny", "large"),
    ],
)
def test_no_capacity_goes_by_a_switch(config: StageConfig, replicas: int, ran: str, runs: str) -> None:
    running = [replica(number, ran) for number in range(replicas)]
    for each in running:
        each.loaded = set(ACCURACIES)
    switch(pipeline("all"), config, [*running, replica(9, config.variant, Phase.STARTING)], resize)
    assert [each.variant for each in running] == [runs] * replicas


@pytest.mark.parametrize(
    ("config", "had", "have"),
    [
        # More at once, in as many as are to stay.
        (StageConfig("detect", "tiny", 1, 0.5, 2), [0.25], [0.5]),
        (StageConfig("detect", "tiny", 1, 0.5, 1), [0.25, 0.25], [0.5, 0.25]),
        (StageConfig("detect", "small", 1, 0.5, 3), [0.25], [0.5]),
        # Fewer once there are enough.
        (StageConfig("detect", "tiny", 1, 0.25, 2), [0.5], [0.5]),
        (StageConfig("detect", "tiny", 1, 0.25, 2), [0.5, 0.25], [0.25, 0.25]),
        (StageConfig("detect", "large", 1, 0.25, 1), [0.5, 0.5], [0.25, 0.5]),
        # Two threads are another process.
        (StageConfig("detect", "tiny", 1, 1.5, 1), [0.5], [0.5]),
    ],
)
def test_no_capacity_goes_by_other_cores(config: StageConfig, had: list[float], have: list[float]) -> None:
    running = [replica(number, cores=cores) for number, cores in enumerate(had)]
    for each in running:
        each.loaded = set(ACCURACIES)
    switch(pipeline("all"), config, running, resize)
    assert [each.cores for each in running] == have


def test_fewer_cores_wait_until_requests_have_moved() -> None:
    (running,) = [replica(0, cores=0.5)]
    config = StageConfig("detect", "tiny", 1, 0.25, 1)
    for may_shrink, cores in ((False, 0.5), (True, 0.25)):
        switch(pipeline("all"), config, [running], resize, may_shrink=may_shrink)
        assert running.cores == cores and running.carries(config)
