"""The case on the local runtime: model servers, queues and router as processes of this machine."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np

from experiments.demo.load import play
from experiments.fidelity.case import Case, bodies_of, scores_of
from experiments.fidelity.figures import Figures, figures_of
from experiments.fidelity.seen import SETTLE_S, Means, Totals, means_of, read_totals
from ipa.model.decision import Change
from ipa.targets.local.workload import LocalWorkload

TIMEOUT_S = 30.0
# Imports and first pages are not part of what is compared.
WARM_UP = 12


def run_real(case: Case, folder: Path) -> tuple[Figures, Means]:
    """The result, and the mean service times that the queues saw."""
    name = case.pipeline.name
    bodies = bodies_of(name)
    workload = LocalWorkload(folder)
    try:
        workload.start(case.pipeline, case.before)
        url = f"{workload.runner(name).endpoint}/v2/models/{name}/infer"
        asyncio.run(play(url, bodies, [0.3 * number for number in range(WARM_UP)], TIMEOUT_S))
        paid = [workload.runner(name).core_seconds]
        totals: list[Totals] = []

        def look() -> None:
            totals.append(read_totals(workload.runner(name).scrape_targets[1:]))

        def change() -> None:
            look()
            revision = workload.read(case.pipeline).revision
            workload.write(
                case.pipeline, Change("fidelity", name, revision, case.before, case.after, case.duration_s)
            )

        def end() -> None:
            paid.append(workload.runner(name).core_seconds)
            look()

        timers = [
            threading.Timer(case.change_s, change),
            threading.Timer(case.change_s + SETTLE_S, look),
            threading.Timer(case.duration_s, end),
        ]
        look()
        for timer in timers:
            timer.start()
        sent = asyncio.run(play(url, bodies, case.times_s.tolist(), TIMEOUT_S))
        for timer in timers:
            timer.join()
    finally:
        workload.stop()
    answered = [it for it in sent if it.outcome == "answered" and it.answer is not None]
    scores = scores_of(name, [(it.page, it.answer) for it in answered if it.answer is not None])
    latencies_s = np.array([it.latency_s if it.outcome == "answered" else np.nan for it in sent])
    sla_s = case.pipeline.sla.latency_s
    figures = figures_of(latencies_s, sla_s, float(np.mean(scores)), paid[-1] - paid[0])
    return figures, means_of(case, *totals)
