"""The container of several variants, and the queue that finds which of them a pod has loaded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterable

import pytest

from ipa.dataplane.http import FIRST_PART
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.stage import models_of, settings_of
from ipa.model.errors import ConfigurationError

NEW, OLD = "http://10.0.0.1:9000", "http://10.0.0.2:9000"


def test_a_models_own_variables_hold_over_those_of_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLSERVER_MODEL_NAME", "detect")
    monkeypatch.setenv("MLSERVER_MODEL_EXTRA", '{"size": "shared", "bits": 8}')
    monkeypatch.setenv("MLSERVER_MODEL_IMPLEMENTATION", "shop.Detect")
    before = dict(os.environ)
    small = settings_of("detect--s", {"MLSERVER_MODEL_EXTRA": '{"size": "s"}'})
    other = settings_of("detect--l", {"MLSERVER_MODEL_IMPLEMENTATION": "shop.Large"})
    assert [(it.name, it.implementation_) for it in (small, other)] == [
        ("detect--s", "shop.Detect"),
        ("detect--l", "shop.Large"),
    ]
    assert small.parameters.extra == {"size": "s"}
    assert other.parameters.extra == {"size": "shared", "bits": 8}
    assert dict(os.environ) == before


@pytest.mark.parametrize("said", ["", "{}", "[]", "no", '{"a": 1}', '{"a": {"B": 1}}'])
def test_models_that_are_not_said_end_it(said: str) -> None:
    with pytest.raises(ConfigurationError, match="IPA_MODELS must be"):
        models_of({"IPA_MODELS": said})


def variants(
    asked: tuple[str, ...], loaded: dict[str, Iterable[str]], heavier: tuple[str, ...] = ()
) -> tuple[bool, dict[str, list[str]]]:
    """True if all pods are known, and the variants with which the queue serves at each."""

    class Here(QueueServer):
        async def _has(self, url: str, variant: str) -> bool:
            return variant in loaded[url]

    async def find() -> tuple[bool, dict[str, list[str]]]:
        queue = Here(
            *("shop", "detect"),
            model="detect--{variant}",
            model_url="http://detect.prod:9000",
            variants=asked,
            heavier_variants=heavier,
            groups=[("s", "m"), ("l", "x")],
        )
        await queue._serve_with(tuple(loaded))
        found = queue._queues[FIRST_PART].to_json()["replicas"]
        return all(queue._loaded.values()), {
            it["url"]: [it["variant"], *it["lighter"], *it["heavier"]] for it in found
        }

    return asyncio.run(find())


def test_a_pod_that_has_others_loaded_runs_the_one_most_like_it() -> None:
    """While pods are replaced the queue asks old and new ones, each for what it has."""
    loaded = {NEW: ("l", "x"), OLD: ("s", "m")}
    assert variants(("x", "l"), loaded) == (True, {NEW: ["x", "l"], OLD: ["m"]})
    assert variants(("s",), loaded, ("m",)) == (True, {NEW: ["l"], OLD: ["s", "m"]})


def test_a_pod_that_does_not_answer_is_not_served_with_yet() -> None:
    assert variants(("s",), {NEW: ("s", "m"), OLD: ()}) == (False, {NEW: ["s"]})
