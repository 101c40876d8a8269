"""Replicas needed to carry a rate, and their utilisation."""

from __future__ import annotations

from ipa.queueing.formation import ceil_ratio


def replicas_to_carry(rate_rps: float, capacity_rps: float, min_replicas: int = 1) -> int:
    """The least n ≥ `min_replicas` with n·h ≥ λ (IPA, throughput constraint)."""
    return max(min_replicas, 1, ceil_ratio(rate_rps, capacity_rps))


def utilisation_ratio(rate_rps: float, capacity_rps: float, replicas: int) -> float:
    """ρ = λ/(n·h), the share of the replicas' throughput that the rate takes."""
    return rate_rps / (replicas * capacity_rps)
