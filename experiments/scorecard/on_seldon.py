"""The cells on Seldon on this machine, each in a cluster of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.demo_seldon.cluster import pipeline_in, seldon_here, start_sending, until_ready
from experiments.fidelity.case import bodies_of
from experiments.live.cells import PIPELINES, Subject
from experiments.scorecard.cell import Cell
from experiments.scorecard.draws import Draw, Place, draws
from experiments.scorecard.figures import Row
from experiments.scorecard.measure import TIMEOUT_S, Programme
from experiments.scorecard.predict import Predictions
from ipa.model.profile import Slowdowns
from ipa.targets.seldon.section import Shape
from ipa.targets.seldon.target import Seldon

SHAPES = {Place.SINGLE: Shape.SINGLE, Place.SPLIT: Shape.SPLIT}
READY_S = 90.0


def seldon_rows(
    subject: Subject,
    place: Place,
    count: int,
    seed: int,
    programme: Programme,
    slowdowns: Slowdowns,
    folder: Path,
) -> Iterator[Row]:
    """That many configurations in the place's shape; `slowdowns` is what the loop learned of the variants."""
    target = Seldon()
    written = pipeline_in(SHAPES[place], PIPELINES / subject.name / "pipeline.yaml", folder / "pipelines", {})
    pipeline = target.shape(written, subject.profiles)
    predictions = Predictions(pipeline, subject.profiles, target)
    drawn: Sequence[Draw] = draws(pipeline, subject.profiles, subject.largest.rate_rps, count, seed)
    for number, draw in enumerate(drawn):
        cell = Cell(subject.name, draw, place, programme, predictions)
        at = folder / f"cell-{number}"
        with seldon_here(at) as here:
            here.create(written, draw.configs)
            until_ready(here, written, READY_S)
            bodies = bodies_of(subject.name)
            if code := start_sending(here, written, bodies, cell.times_s(), at, TIMEOUT_S).wait():
                raise RuntimeError(f"the sender ended with exit code {code}")
        yield cell.row(at / "requests.jsonl", slowdowns)
