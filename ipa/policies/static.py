"""The policy that changes nothing: one configuration whatever the load."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.model.errors import InputError
from ipa.model.forecast import Forecast
from ipa.model.observation import Observation
from ipa.model.plan import Plan, StageConfig
from ipa.policies.base import PolicyState
from ipa.policies.ours import MIN_RATE_RPS
from ipa.policies.profiled import Profiled


@dataclass(frozen=True, slots=True)
class Static:
    """Keeps `configs`; without any, what runs when it is asked."""

    profiled: Profiled
    configs: tuple[StageConfig, ...] = ()
    name: str = "static"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The configuration as a plan for the forecast, or for as much of it as it carries.

        InputError where the configuration was not measured.
        """
        configs = self.configs or state.running
        rate_rps = max(forecast.upper_rps, MIN_RATE_RPS)
        seen = self.profiled.predict(configs, rate_rps)
        carried_rps = rate_rps if seen is None or seen.carries else seen.capacity_rps
        plan = self.profiled.describe(configs, carried_rps)
        if plan is None:
            named = ", ".join(str(config) for config in configs)
            raise InputError(f"the static configuration was not measured: {named}")
        note = "" if carried_rps == rate_rps else f"the static plan carries {carried_rps:.3g} rps"
        return replace(plan, solver=self.name, note=note)
