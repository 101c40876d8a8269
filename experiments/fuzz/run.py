"""Runs schemathesis, all its checks and phases, over the application, and counts what came of it."""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema

from ipa.api.app import create_app
from ipa.api.context import ApiContext
from ipa.api.limits import ApiLimits
from ipa.model.plan import Plan
from ipa.optimize.solve import solve
from ipa.policies.planning import PlanQuestion
from tests.fakes.services import FakeWorld, over

# Each client may ask as fast as it can: what is tried here is what is asked.
NO_LIMIT_RPS = 1e9


# Those by which the check itself goes.
REFUSED = ("400", "401", "403", "404", "405", "406", "409", "415", "422", "428", "429", "5xx")


@dataclass
class Fuzzed:
    """The result of a run: requests by operation and by status, and what was wrong with them."""

    by_operation: Counter[str] = field(default_factory=Counter)
    by_status: Counter[int] = field(default_factory=Counter)
    by_phase: Counter[str] = field(default_factory=Counter)
    operations: frozenset[str] = frozenset()
    # Each finding once, with how often it was seen.
    findings: Counter[str] = field(default_factory=Counter)
    details: dict[str, str] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """Requests that were sent."""
        return sum(self.by_status.values())

    @property
    def uncovered(self) -> list[str]:
        """Operations that were never asked with success or refusal."""
        return sorted(self.operations - set(self.by_operation))

    def of_check(self, name: str) -> int:
        """The number of answers that a check found something wrong with."""
        return sum(count for finding, count in self.findings.items() if finding.startswith(f"{name}: "))


def services() -> ApiContext:
    """A world in memory whose plans are made by our planner."""
    world = FakeWorld().play(60)
    made = world.services()

    async def plan(question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
        return solve(question.problem(), "exact", 1.0)

    return replace(over(made, plan=plan), limits=ApiLimits(NO_LIMIT_RPS, solves=2, waiting=16))


def fuzz(
    examples: int,
    steps: int,
    seed: int,
    *,
    is_short: bool = False,
    tell: Callable[[str], None] = lambda line: None,
) -> Fuzzed:
    """Ask every operation for its examples and bounds, `examples` made-up requests, and chains of `steps`.

    The short form leaves the bounds out, which are some five thousand requests.
    """
    logging.disable(logging.CRITICAL)
    try:
        return _run(create_app(services(), hosts=()), _config(examples, steps, seed, is_short), tell)
    finally:
        logging.disable(logging.NOTSET)


def _config(examples: int, steps: int, seed: int, is_short: bool) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "continue-on-failure": True,
            "generation": {"max-examples": examples, "deterministic": True},
            "phases": {
                "coverage": {"enabled": not is_short},
                "stateful": {"max-steps": steps, "generation": {"max-examples": examples}},
            },
            "checks": {
                "missing_required_header": {"expected-statuses": ["400", "404", "422", "428"]},
                # What a change was made for is looked at first, and the size before the contents.
                "negative_data_rejection": {"expected-statuses": [*REFUSED, "412", "413"]},
                # A tag that is made up is stale, a name is of nothing, and there is more sense to a pipeline
                # than a schema can say.
                "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "412", "422", "429"]},
            },
        }
    )


def _run(app: Any, config: SchemathesisConfig, tell: Callable[[str], None]) -> Fuzzed:
    fuzzed = Fuzzed()
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    fuzzed.operations = frozenset(each.ok().label for each in schema.get_all_operations())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for event in from_schema(schema).execute():
            if isinstance(event, events.ScenarioFinished):
                _count(fuzzed, event)
            elif isinstance(event, events.PhaseFinished):
                tell(f"{event.phase.name.value}: {fuzzed.by_phase[event.phase.name.value]} requests")
            elif isinstance(event, events.NonFatalError):
                fuzzed.errors.append(f"{event.label}: {event.info.title}: {event.info.message}")
            elif isinstance(event, events.FatalError):
                raise event.exception
    return fuzzed


def _count(fuzzed: Fuzzed, event: events.ScenarioFinished) -> None:
    recorder = event.recorder
    for case_id, interaction in recorder.interactions.items():
        if interaction.response is None:
            fuzzed.errors.append(f"{recorder.cases[case_id].value.operation.label}: no answer")
            continue
        fuzzed.by_status[interaction.response.status_code] += 1
        fuzzed.by_phase[event.phase.value] += 1
        fuzzed.by_operation[recorder.cases[case_id].value.operation.label] += 1
    for case_id, checks in recorder.checks.items():
        for check in checks:
            if check.failure_info is None:
                continue
            case = recorder.cases[case_id].value
            failure = check.failure_info.failure
            finding = f"{check.name}: {case.operation.label}: {failure.title}"
            fuzzed.findings[finding] += 1
            fuzzed.details.setdefault(finding, f"{failure.message}\n{check.failure_info.code_sample}")
