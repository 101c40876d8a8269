"""The world of the experiment: replicas serve as the queue of which InfAdapter's capacities are true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log

from ipa.experiment.simulated import started
from ipa.library import PolicyInputs, SimSetup, make_policy
from ipa.model.profile import ProfilePoint, StageProfile
from ipa.policies.base import Policy

# Policies whose rule is about the measured throughput, not about service times.
AS_MEASURED = ("infadapter", "ms+")


def servers(setup: SimSetup, within_s: float = 0.75) -> SimSetup:
    """The throughputs of the profiles are the largest Poisson rates whose 99th percentile is `within_s`."""
    profiles = {name: as_servers(each, within_s) for name, each in setup.profiles.items()}
    policy: str | Policy | Callable[[PolicyInputs], Policy] = setup.policy
    if isinstance(policy, str) and policy in AS_MEASURED:
        policy = make_policy(policy, PolicyInputs(setup.pipeline, setup.profiles))
    return started(replace(setup, profiles=profiles, policy=policy))


def as_servers(profile: StageProfile, within_s: float) -> StageProfile:
    """The profile with service times that follow from its throughputs.

    The throughput th of a point is taken as the largest Poisson rate whose 99th percentile is `within_s`,
    waiting included. A single server with exponential service has that percentile if it serves in s =
    within_s / (ln 100 + th·within_s): the time at an M/M/1 queue is exponential of rate 1/s − th.
    """

    def served(point: ProfilePoint) -> ProfilePoint:
        assert point.throughput_rps is not None
        mean_s = within_s / (log(100) + point.throughput_rps * within_s)
        return replace(point, latency_s=mean_s * log(100), latency_mean_s=mean_s, throughput_rps=1 / mean_s)

    variants = tuple(
        replace(each, points=tuple(served(point) for point in each.points)) for each in profile.variants
    )
    return replace(profile, variants=variants)
