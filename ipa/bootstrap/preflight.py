"""Settings looked at before anything is started: what is wrong with all of them is told at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from ipa.bootstrap.identity import oidc_issuer
from ipa.bootstrap.leader_election import election_faults
from ipa.bootstrap.targets import actuation_faults
from ipa.bootstrap.webhooks import webhook_faults
from ipa.files.traces import read_trace
from ipa.model.errors import ConfigurationError, IpaError, Problem
from ipa.settings import Settings, words


def check_settings(settings: Settings) -> None:
    """ConfigurationError lists all that is wrong with webhook, trace, GitOps, election and issuer."""
    looks: tuple[Callable[[Settings], Iterator[str]], ...] = (
        webhook_faults,
        _trace_faults,
        actuation_faults,
        election_faults,
        _issuer_faults,
    )
    problems = [Problem(fault) for look in looks for fault in look(settings)]
    if problems:
        raise ConfigurationError("the service cannot start with these settings", problems=problems)


def _trace_faults(settings: Settings) -> Iterator[str]:
    """Check that the training trace can be read."""
    if not settings.forecast_trace:
        return
    try:
        rates = read_trace(Path(settings.forecast_trace))
    except IpaError as error:
        yield f"IPA_FORECAST_TRACE: {error}"
        return
    if not any(rates):
        yield f"IPA_FORECAST_TRACE: {settings.forecast_trace} has no requests"


def _issuer_faults(settings: Settings) -> Iterator[str]:
    if "oidc" not in words(settings.auth):
        return
    try:
        oidc_issuer(settings)
    except ConfigurationError as error:
        yield from [problem.message for problem in error.problems] or [error.message]
