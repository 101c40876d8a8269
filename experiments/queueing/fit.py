"""Fits the constants and corrections of the waiting-time formula: writes ipa/queueing/tail_fit.json.

`python -m experiments.queueing.fit` first measures its points with the event loop, which takes hours, and
keeps them in runs/queueing/training.npz; with these it takes minutes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares, minimize

from experiments.queueing.corrections import EVEN, Correction
from experiments.queueing.points import PERCENTILES, columns, draw, draw_quiet, draw_short, draw_wide, measure
from experiments.queueing.stage_loop import Floats
from ipa.queueing.tail import (
    Constants,
    Parts,
    logistic,
    longer,
    mean_of,
    quantile_of,
    service_spread,
    stage_parts,
)

ROOT = Path(__file__).resolve().parents[2]
POINTS, TARGET = ROOT / "runs/queueing/training.npz", ROOT / "ipa/queueing/tail_fit.json"
# Seed, how many, from where. None of these seeds is used for validation.
SETS = (
    (1, 3000, draw),
    (2, 2142, draw),
    (3, 4000, draw_wide),
    (5, 2500, draw),
    (6, 1500, draw_quiet),
    (8, 1800, draw_short),
    (9, 1500, draw_wide),
)
START = Constants(
    steep=0.85, delay=0.58, early=0.2, paced=0.23, sure=0.21, spread=0.99, partly=0.38,
    mean_delay=1.0, mean_wait=1.0, mean_paced=0.03, mean_form=1.0, mean_size=0.4,
)  # fmt: skip
MEAN = ("mean_delay", "mean_wait", "mean_paced", "mean_form", "mean_size")
# Waiting's kind, waiting's length, batch size, forming. What waiting's length corrects rises at least in
# proportion to service time and to 1/n, so it may take back nearly all of that.
CORRECTIONS = (Correction(2, 8), Correction(2, 8, budget=0.95), Correction(2, 8), Correction(3, 0))
# Errors count as squares up to this ratio and as themselves beyond; too low counts more than too high, and
# the aim is slightly above the truth, so that plans err to the safe side.
SMALL_ERROR, TOO_LOW, AIM = 0.04, 2.5, 0.012
RIDGE = 1e-7
# Every point counts at its 99th percentile, and with less weight at one of the others.
OTHERS, OTHERS_WEIGHT = (90.0, 95.0, 99.9), 0.4
ROUNDS, STEPS = 4, 3000


@dataclass(frozen=True, slots=True)
class Sample:
    """The points at one percentile: the arguments of `stage_parts`, the measured quantiles and means."""

    percentile: float
    arguments: tuple[Floats, ...]
    quantiles: Floats
    means: Floats
    weight: float


def training_points() -> dict[str, Floats]:
    """The arguments and measurements of all points, measured unless they are kept."""
    if not POINTS.exists():
        made = [
            measure(draw_one(np.random.default_rng([seed, index])), seed * 100_000 + index)
            for seed, count, draw_one in SETS
            for index in range(count)
        ]
        POINTS.parent.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            POINTS,
            **columns([each.point for each in made]),
            mean=[each.mean for each in made],
            quantiles=[each.quantiles for each in made],
        )
    with np.load(POINTS) as archive:
        return dict(archive)


def samples(data: dict[str, Floats]) -> list[Sample]:
    """All points at the 99th percentile, and each at one other."""
    total = len(data["mean"])
    other = np.random.default_rng(0).integers(0, len(OTHERS), total)
    spread = service_spread(data["service_mean_s"], data["service_tail_s"])
    names = ("batch_size", "replicas", "items", "service_mean_s", "service_one_s")
    arguments = [*(data[name] for name in names), spread, data["rate_rps"], data["timeout_s"]]
    chosen = [(99.0, np.arange(total), 1.0)]
    chosen += [(each, np.flatnonzero(other == at), OTHERS_WEIGHT) for at, each in enumerate(OTHERS)]
    return [
        Sample(
            percentile,
            tuple(each[rows] for each in arguments),
            data["quantiles"][rows, PERCENTILES.index(percentile)],
            data["mean"][rows],
            weight,
        )
        for percentile, rows, weight in chosen
    ]


def all_parts(made: list[Sample], constants: Constants) -> Parts:
    """The parts of all samples, one after the other."""
    parts = [stage_parts(*(*each.arguments, each.percentile, constants)) for each in made]
    joined = {it.name: np.concatenate([getattr(p, it.name) for p in parts], axis=-1) for it in fields(Parts)}
    return Parts(**joined)


def slopes(parts: Parts, outputs: list[Floats], c: Constants) -> list[Floats]:
    """The change of `quantile_of` with each correction."""
    kind, length, size, forming = outputs
    share, fuller = logistic(kind), logistic(size - 2.0)
    wait = parts.log_factor * (parts.light_s + share * parts.heavy_s) + c.paced * parts.paced_s + parts.own_s
    wait, form = wait * np.exp(length), parts.form_s * np.exp(forming)
    queued = longer(form, wait)
    room = parts.per_item_s * (parts.batch_size - parts.usual_size)
    served = parts.fixed_s + parts.per_item_s * parts.usual_size + fuller * room
    whole = np.hypot((1.0 - c.sure) * queued, parts.service_tail * served)
    by_queued = c.sure + (1.0 - c.sure) ** 2 * queued / whole
    by_wait = by_queued * (wait / queued) ** 3
    by_served = 1.0 + parts.service_tail**2 * served / whole
    by_kind = by_wait * parts.log_factor * parts.heavy_s * share * (1.0 - share) * np.exp(length)
    by_forming = by_queued * (form / queued) ** 3 * form
    return [by_kind, by_wait * wait, by_served * room * fuller * (1.0 - fuller), by_forming]


class Fit:
    """The fit's state: constants and weights."""

    def __init__(self, made: list[Sample]) -> None:
        self.made = made
        self.constants = START
        self.target = np.log(np.concatenate([each.quantiles for each in made]))
        self.weight = np.concatenate([np.full(len(each.quantiles), each.weight) for each in made])
        self.ends = np.cumsum([each.size for each in CORRECTIONS])[:-1]
        self.weights = np.random.default_rng(0).normal(0.0, 0.25, sum(each.size for each in CORRECTIONS))
        features = all_parts(made, START).features
        self.centre, self.width = features.mean(axis=1), features.std(axis=1)
        self.width[EVEN] = 1.0  # the budget is on their own slope

    def rows(self, parts: Parts) -> Floats:
        """The features, scaled."""
        return np.asarray((parts.features - self.centre[:, None]) / self.width[:, None])

    def outputs(self, weights: Floats, rows: Floats) -> list[Floats]:
        """The four corrections."""
        each = zip(CORRECTIONS, np.split(weights, self.ends), strict=True)
        return [correction.value(own, rows) for correction, own in each]

    def loss(self, weights: Floats, parts: Parts, rows: Floats) -> tuple[float, Floats]:
        """The loss of the corrections' weights and its gradient."""
        outputs = self.outputs(weights, rows)
        value = quantile_of(parts, outputs, self.constants)
        error = np.log(value) - self.target - AIM
        root = np.sqrt(1.0 + (error / SMALL_ERROR) ** 2)
        share = self.weight * np.where(error < 0.0, TOO_LOW, 1.0) / len(error)
        total = float(np.sum(share * (root - 1.0)) * SMALL_ERROR**2 + RIDGE * weights @ weights)
        gradient = []
        by_value = share * error / root / value
        chain = zip(
            CORRECTIONS, np.split(weights, self.ends), slopes(parts, outputs, self.constants), strict=True
        )
        for correction, own, slope in chain:
            cost, by_weight = correction.penalty(own)
            total += 1e-3 * cost
            gradient.append(correction.gradient(own, by_value * slope) + 1e-3 * by_weight)
        # Scaled, since the minimiser's own tolerances are absolute.
        return 1e3 * total, 1e3 * (np.concatenate(gradient) + 2.0 * RIDGE * weights)

    def fit_weights(self) -> float:
        """The loss after a round on the weights."""
        parts = all_parts(self.made, self.constants)
        options: Any = {"maxiter": STEPS, "maxfun": 2 * STEPS, "maxcor": 30, "ftol": 1e-13, "gtol": 1e-7}
        optimum = minimize(
            self.loss,
            self.weights,
            args=(parts, self.rows(parts)),
            jac=True,
            method="L-BFGS-B",
            options=options,
        )
        each = zip(CORRECTIONS, np.split(optimum.x, self.ends), strict=True)
        self.weights = np.concatenate([correction.within_budget(own) for correction, own in each])
        return float(optimum.fun)

    def fit_constants(self, names: tuple[str, ...], of_mean: bool) -> None:
        """Set these constants by least squares, of the means or of the quantiles."""
        made = self.made[:1] if of_mean else self.made
        target = np.log(made[0].means) if of_mean else self.target + AIM
        formula = mean_of if of_mean else quantile_of

        def error(values: Floats) -> Floats:
            constants = replace(self.constants, **dict(zip(names, map(float, values), strict=True)))
            parts = all_parts(made, constants)
            value = formula(parts, self.outputs(self.weights, self.rows(parts)), constants)
            return np.asarray(np.log(value) - target)

        start = np.array([asdict(self.constants)[name] for name in names])
        optimum = least_squares(
            error,
            start,
            bounds=(0.0, np.inf),
            loss="soft_l1",
            f_scale=SMALL_ERROR,
            x_scale=start,
            max_nfev=10,
        )
        self.constants = replace(self.constants, **dict(zip(names, map(float, optimum.x), strict=True)))


def written(fit: Fit) -> str:
    """The file with the result."""
    each = zip(CORRECTIONS, np.split(fit.weights, fit.ends), strict=True)
    tables = [correction.table(own, fit.centre, fit.width) for correction, own in each]
    out = np.zeros((len(tables), sum(len(table[1]) for table in tables)))
    first = 0
    for row, (_, offsets, weights, _) in enumerate(tables):
        out[row, first : first + len(offsets)] = weights
        first += len(offsets)
    blocks = {
        "units": np.concatenate([table[0] for table in tables]),
        "offsets": np.concatenate([table[1] for table in tables]),
        "out": out,
        "shifts": np.array([table[3] for table in tables]),
    }
    constants = ", ".join(f'"{name}": {value:.5g}' for name, value in asdict(fit.constants).items())
    lines = [
        f'"constants": {{{constants}}}',
        *(f'"{name}": {_numbers(block)}' for name, block in blocks.items()),
    ]
    return "{\n " + ",\n ".join(lines) + "\n}\n"


def _numbers(block: Floats) -> str:
    if block.ndim == 1:
        return "[" + ", ".join(f"{value:.5g}" for value in block.tolist()) + "]"
    return "[\n  " + ",\n  ".join(map(_numbers, block)) + "\n ]"


def main() -> None:
    """Fit and write."""
    fit = Fit(samples(training_points()))
    quantile_names = tuple(it.name for it in fields(Constants) if it.name not in MEAN)
    for turn in range(ROUNDS):
        if turn:
            fit.fit_constants(quantile_names, of_mean=False)
        print(f"round {turn + 1} of {ROUNDS}: loss {fit.fit_weights():.4f}", flush=True)
    fit.fit_constants(MEAN, of_mean=True)
    TARGET.write_text(written(fit), encoding="utf-8")
    print(f"wrote {TARGET.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
