"""Measure: python -m experiments.bench_fleet [pipelines]."""

from __future__ import annotations

import sys

from experiments.bench_fleet import measure, random_fleet, report

if __name__ == "__main__":
    print(report(measure(random_fleet(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))))
