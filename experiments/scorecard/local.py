"""The cells of local processes: one pipeline that is changed from configuration to configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from experiments.fidelity.seen import Totals, read_totals
from experiments.live.cells import Subject, pinned_to
from experiments.neighbours import neighbours
from experiments.scorecard.cell import Cell
from experiments.scorecard.draws import Draw, Place
from experiments.scorecard.figures import Row
from experiments.scorecard.measure import Programme, start_sender
from experiments.scorecard.predict import Predictions
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.adapters.prometheus.scraper import Scraper
from ipa.control.engine.correction import UNCORRECTED, learned
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.observe import observe
from ipa.model.decision import Change
from ipa.model.plan import StageConfig, in_words
from ipa.settings import Settings
from ipa.targets.local.runner import PipelineRunner
from ipa.targets.local.target import LOCAL, SCRAPE_INTERVAL_S
from ipa.targets.local.workload import LocalWorkload

READY_S, POLL_S = 60.0, 0.02
GUARDS = GuardSettings(tick_s=1.0, correct_profiles=True)


class LocalCells:
    """Runs the cells of a pipeline one after the other; what was learned of its variants is kept."""

    def __init__(self, subject: Subject, programme: Programme, folder: Path) -> None:
        self.predictions = Predictions(subject.pipeline, subject.profiles, LOCAL)
        self.correction = UNCORRECTED
        self._subject, self._programme, self._folder = subject, programme, folder
        self._workload = LocalWorkload(folder)
        self._running: tuple[StageConfig, ...] = ()
        self._number = 0
        self._wanted = subject.pipeline
        self._metrics: PrometheusMetrics

    @contextmanager
    def started(self, configs: Sequence[StageConfig]) -> Iterator[None]:
        """The pipeline with that configuration first; leaving the block ends every process."""
        self._running = tuple(configs)
        with ExitStack() as ending:
            ending.callback(self._workload.stop)
            self._workload.start(self._subject.pipeline, self._running)
            scraper = Scraper(self._runner.scrape_targets, SCRAPE_INTERVAL_S)
            ending.callback(scraper.stop)
            self._metrics = PrometheusMetrics(Settings(), ask=scraper.ask)
            yield

    def row(self, draw: Draw, place: Place) -> Row:
        """The configuration under its load and beyond, with that many neighbours."""
        before, change_s = self._running, self._changed(draw.configs)
        cell = Cell(self._subject.name, draw, place, self._programme, self.predictions, before)
        folder = self._folder / f"cell-{self._number}"
        times_s = cell.times_s()
        url = f"{self._runner.endpoint}/v2/models/{self._subject.name}/infer"
        with neighbours(place.loops):
            sender = start_sender(self._subject.name, url, times_s, folder)
            begun_s = time.monotonic()
            self._learn(begun_s + self._programme.learning_s)
            slowdowns = self.correction.slowdowns(self._subject.pipeline)
            first = self._totals()
            time.sleep(max(begun_s + sum(self._usual_s) - time.monotonic(), 0))
            last = self._totals()
            if code := sender.wait():
                raise RuntimeError(f"the sender ended with exit code {code}")
        busiest = self.predictions.busiest(draw.configs, draw.rate_rps)
        served = last[busiest.stage].seconds - first[busiest.stage].seconds
        busy_ratio = served / (self._programme.measured_s * busiest.replicas)
        return cell.row(folder / "requests.jsonl", slowdowns, busy_ratio, change_s)

    @property
    def _runner(self) -> PipelineRunner:
        return self._workload.runner(self._subject.name)

    @property
    def _usual_s(self) -> tuple[int, int]:
        return self._programme.learning_s, self._programme.measured_s

    def _totals(self) -> Totals:
        return read_totals(self._runner.scrape_targets[1:])

    def _changed(self, configs: tuple[StageConfig, ...]) -> float:
        """The seconds from the write until all serve."""
        # The queues of resident variants choose among them, but where a person pinned one.
        wanted = pinned_to(self._subject.pipeline, configs)
        self._number += 1
        revision, begun_s = self._workload.read(wanted).revision, time.monotonic()
        if configs != self._running:
            change = Change(
                f"scorecard-{self._number}", self._subject.name, revision, self._running, configs, READY_S
            )
            self._workload.write(wanted, change)
        while not (state := self._workload.read(wanted)).settled or any(
            it.ready_replicas < it.config.replicas for it in state.stages
        ):
            if time.monotonic() > begun_s + READY_S:
                raise RuntimeError(f"{in_words(configs)} was not ready within {READY_S:g} s")
            time.sleep(POLL_S)
        self._running, self._wanted = configs, wanted
        return time.monotonic() - begun_s

    def _learn(self, until_s: float) -> None:
        """What the loop would have learned by then, from the service's own signals, each second."""
        pipeline = self._subject.pipeline
        while (now_s := time.monotonic()) < until_s:
            signals = self._metrics.read(pipeline, self._programme.learning_s)
            state = self._workload.read(self._wanted)
            seen = observe(pipeline, signals, state, at_s=now_s)
            predict = self.predictions.profiled(pipeline.sla.percentile).predict
            self.correction = learned(
                self.correction,
                seen,
                predict,
                GUARDS,
                now_s,
                measured=pipeline.bounds.measured,
                is_broken=False,
            )
            time.sleep(min(1.0, max(until_s - time.monotonic(), 0)))
