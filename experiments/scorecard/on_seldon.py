"""The cells on Seldon on this machine, each in a cluster of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.demo_seldon.cluster import entry_url, pipeline_in, seldon_here, until_ready
from experiments.live.cells import PIPELINES, Subject
from experiments.scorecard.draws import Draw, Place, draws
from experiments.scorecard.figures import Row
from experiments.scorecard.measure import Programme, sent_of, start_sender
from experiments.scorecard.predict import Predictions
from ipa.model.plan import in_words
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
        percentile = programme.percentile(draw.rate_rps)
        profiled = predictions.of(draw.configs, (), draw.rate_rps, percentile, ())
        times_s = programme.times_s(draw.rate_rps, profiled.capacity_rps or draw.rate_rps)
        cell = folder / f"cell-{number}"
        with seldon_here(cell) as here:
            here.create(written, draw.configs)
            until_ready(here, written, READY_S)
            sender = start_sender(subject.name, entry_url(written), times_s, cell, here.node.environment)
            if code := sender.wait():
                raise RuntimeError(f"the sender ended with exit code {code}")
        sent = sent_of(subject.name, programme, cell / "requests.jsonl")
        yield Row(
            pipeline=subject.name,
            place=str(place),
            rate_rps=draw.rate_rps,
            configs=in_words(draw.configs),
            percentile=percentile,
            requests=len(sent.latencies_s),
            lost=sent.lost,
            profiled=profiled,
            believed=predictions.of(draw.configs, (), draw.rate_rps, percentile, slowdowns),
            measured=sent.figures(percentile, None, None),
        )
