"""The waiting-time formula gives the figures that it was fitted to give, at 400 random stages.

The constants are made by `python -m experiments.queueing.fit`. After a new fit,
`python -m tests.golden.test_waiting_times` writes waiting_times.json anew.
"""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np

from ipa.queueing.tail import Sojourn, sojourn

FILE = Path(__file__).with_name("waiting_times.json")
STAGES = 400


def times() -> Sojourn:
    """The time at stages of every kind: any load, batch, number of replicas, items, timeout and spread."""
    random = Random(0)
    rows = []
    for _ in range(STAGES):
        batch_size = random.choice([1, 1, 2, 3, 4, 8, 16, 32, 64])
        replicas = random.choice([1, 1, 2, 3, 5, 8, 16, 40])
        mean_s = 10 ** random.uniform(-3, 0.5)
        tail_s = mean_s * random.choice([1.0, 1.05, 1.3, 2.0, 4.0])
        rate_rps = random.choice([0.02, 0.2, 0.5, 0.8, 0.9, 0.97]) * replicas * batch_size / mean_s
        items = random.choice([1.0, 1.0, 1.0, 2.5, 6.0, 20.0])
        timeout_s = random.choice([0.0, 0.1, 1.0, 5.0, np.inf]) * mean_s
        one_s = mean_s * random.choice([0.1, 0.5, 1.0])
        rows.append((batch_size, replicas, mean_s, tail_s, rate_rps, items, timeout_s, one_s))
    sizes, replicas_, means_s, tails_s, rates_rps, items_, timeouts_s, ones_s = np.array(rows).T
    return sojourn(
        sizes,
        replicas_,
        means_s,
        tails_s,
        rates_rps,
        items=items_,
        timeout_s=timeouts_s,
        service_one_s=ones_s,
    )


def test_the_formula_gives_the_figures_of_its_fit() -> None:
    known, computed = json.loads(FILE.read_text()), times()
    np.testing.assert_allclose(computed.mean_s, known["mean_s"], rtol=1e-9)
    np.testing.assert_allclose(computed.excess_s, known["excess_s"], rtol=1e-9)


if __name__ == "__main__":
    made = times()
    text = {"mean_s": made.mean_s.tolist(), "excess_s": made.excess_s.tolist()}
    FILE.write_text(json.dumps(text) + "\n", encoding="utf-8")
