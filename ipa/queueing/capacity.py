"""The utilisation of replicas."""

from __future__ import annotations


def utilisation_ratio(rate_rps: float, capacity_rps: float, replicas: int) -> float:
    """ρ = λ/(n·h), the share of the replicas' throughput that the rate takes."""
    return rate_rps / (replicas * capacity_rps)
