"""The policy that changes nothing: one configuration for every load."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.plan import Plan, StageConfig
from ipa.policies.base import PolicyState
from ipa.policies.profiled import Profiled
from ipa.policies.rules import plan_of


@dataclass(frozen=True, slots=True)
class Static:
    """Keeps `configs`, or the running configuration if none are given."""

    profiled: Profiled
    configs: tuple[StageConfig, ...] = ()
    name: str = "static"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The configuration as a plan for the forecast, or for as much of it as it carries.

        InputError if the configuration was not measured.
        """
        return plan_of(self.profiled, self.configs or state.running, forecast, self.name)
