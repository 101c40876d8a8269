"""The correctness of the answers on Seldon, of each pipeline: that none belongs to another request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.fidelity.case import PAGES, SEED, bodies_of
from ipa.dataplane.runtime import DTYPES, StageRuntime
from ipa.model.pipeline import Pipeline, Variant
from ipa.targets.local.section import local_of
from ipa.targets.seldon.section import WireProtocol, seldon_of
from pipelines.ocr.client import score_answer
from pipelines.signals.models import VARIANT
from tests.fakes.kube.node import CLASS

Json = Mapping[str, Any]
# The tensors of one item by name.
Item = dict[str, Any]


def wrong_answers(pipeline: Pipeline, answers: Sequence[tuple[int, Json]]) -> int:
    """The number of answers, each with the number of its request, that are not that request's.

    Of ocr, those that fit another page better than the one asked about; of the other pipelines, those that
    no choice of variants gives for that request.
    """
    if is_microservice(pipeline):
        bodies = [json.loads(body) for body in bodies_of(pipeline.name)]
        rows = possible_rows(pipeline, np.concatenate([rows_of(body) for body in bodies]))
        return sum(
            not any(np.allclose(rows_of(answer), one[number]) for one in rows) for number, answer in answers
        )
    if pipeline.name == "ocr":
        return mixed_up(answers, PAGES, lambda page, answer: score_answer(SEED, PAGES, page, answer))
    possible = possible_answers(pipeline, [json.loads(body) for body in bodies_of(pipeline.name)])
    return sum(outputs_of(answer) not in possible[number] for number, answer in answers)


def is_microservice(pipeline: Pipeline) -> bool:
    """True if the pipeline's stages speak Seldon's own protocol."""
    section = seldon_of(pipeline)
    return section is not None and section.protocol is WireProtocol.SELDON


def possible_rows(pipeline: Pipeline, rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """The answers to these rows by any choice of variants, from the classes alone, without a server."""
    possible = [rows]
    for stage in pipeline.stages:
        sections = [seldon_of(variant) for variant in stage.variants]
        models = [_class(it.env[CLASS])(it.env[VARIANT]) for it in sections if it is not None]
        possible = [model.predict(each) for each in possible for model in models]
    return possible


def rows_of(message: Json) -> NDArray[np.float64]:
    """The rows of a message of Seldon's own protocol."""
    return np.asarray(message["data"]["ndarray"], dtype=np.float64)


def mixed_up(answers: Sequence[tuple[int, Json]], pages: int, score: Callable[[int, Json], float]) -> int:
    """The number of answers that fit another page better than the one asked about."""
    return sum(
        any(score(other, answer) > score(page, answer) for other in range(pages) if other != page)
        for page, answer in answers
    )


def possible_answers(pipeline: Pipeline, requests: Sequence[Json]) -> list[set[str]]:
    """The outputs (`outputs_of`) that each request of one item can have, by any variant of each stage."""
    items: list[dict[str, Item]] = [keyed([item_of(request)]) for request in requests]
    for stage in pipeline.stages:
        different = {key: item for each in items for key, item in each.items()}
        after: dict[str, dict[str, Item]] = {key: {} for key in different}
        for variant in stage.variants:
            answers = predicted(variant, list(different.values()))
            for key, answer in zip(different, answers, strict=True):
                after[key] |= keyed([answer])
        items = [{key: item for old in each for key, item in after[old].items()} for each in items]
    return [set(each) for each in items]


def predicted(variant: Variant, items: Sequence[Item]) -> list[Item]:
    """The variant's outputs of each item, all in one batch, without a server."""
    local = local_of(variant)
    assert local is not None and local.implementation is not None
    # Without the settings of a server, which its model does not ask for.
    model: StageRuntime = object.__new__(_class(local.implementation))
    model.load_model(local.parameters)
    outputs = model.predict_batch({name: [item[name] for item in items] for name in items[0]})
    return [{name: rows[at] for name, rows in outputs.items()} for at in range(len(items))]


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def item_of(request: Json) -> Item:
    """The tensors of a V2 request of one item, as a stage's model is given them."""
    return {
        it["name"]: np.asarray(it["data"], DTYPES[it["datatype"]])
        if it["datatype"] in DTYPES
        else it["data"][0]
        for it in request["inputs"]
    }


def keyed(items: Iterable[Item]) -> dict[str, Item]:
    """The items by their content."""
    return {_key(item.items()): item for item in items}


def outputs_of(answer: Json) -> str:
    """The outputs of a V2 answer to one item, as a text that is the same for equal ones."""
    return _key((output["name"], output["data"]) for output in answer["outputs"])


def _key(tensors: Iterable[tuple[str, Any]]) -> str:
    return json.dumps({name: np.ravel(np.asarray(data)).tolist() for name, data in tensors}, sort_keys=True)
