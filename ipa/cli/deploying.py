"""`ipa deploy`: bring reviewed pipelines to a service, and take all of them back if one of them fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from rich.console import Console

from ipa.cli.watching import FAILED, Until, watch
from ipa.clients.http import HttpClient
from ipa.control.ports import Clock
from ipa.model.errors import (
    DeadlineError,
    InProgressError,
    IpaError,
    NotFoundError,
    PreconditionError,
    RolloutError,
)
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.service.preconditions import ChangeOrder, at_revision

# A request may meet a replica that is just being replaced.
TRIES = 3
# Phases in which no change goes on.
CALM = frozenset({"idle", "settled", "not_applied", "moved"}) | FAILED
# Sends the smoke request of the pipeline; the reason why it was not answered, or empty.
Smoke = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class _Earlier:
    """The pipeline as the service had it: the text of its file (empty if it is new), its profiles that the
    change replaces, its newest change (empty without one) and what ran.
    """

    name: str
    text: str
    profiles: Mapping[str, StageProfile]
    decision: str
    running: list[Any]


@dataclass(frozen=True, slots=True)
class Deployment:
    """Brings pipelines to a service one after another. Each step has `timeout_s` to settle."""

    service: HttpClient
    clock: Clock
    console: Console
    by: str
    reason: str
    timeout_s: float
    brought: list[_Earlier]

    def bring(self, pipeline: Pipeline, profiles: Mapping[str, StageProfile], smoke: Smoke) -> None:
        """Give the service the pipeline with the profiles, wait until it has settled, and send a request.

        Errors: those of the service; RolloutError, DeadlineError (it did not settle); RolloutError (the
        request was not answered).
        """
        from ipa.files import dump_profile, pipeline_to_mapping

        name = pipeline.name
        earlier = self._earlier(name, profiles)
        self.brought.append(earlier)
        self._say(f"{name}: push")
        if not earlier.text:
            self.service.create(pipeline_to_mapping(pipeline), by=self.by, reason=self.reason)
        else:
            self._replace(name, pipeline_to_mapping(pipeline))
        for stage, profile in profiles.items():
            self._give(name, stage, dump_profile(profile))
        if not earlier.text:
            self._say(f"{name}: new, in advisory mode: nothing runs until `ipa apply {name}`")
            return
        # A decision on what the service has now; a loop that has just begun decides once it sees the load.
        tick = self.service.status(name)["live"]["tick"]
        self._wait_for(name, lambda live: not live["reason"].startswith("hold.metrics"))
        watch(
            self.service,
            name,
            self.clock,
            self.console,
            until=Until.SETTLED,
            timeout_s=self.timeout_s,
            after_tick=tick,
        )
        self._check(name, smoke)

    def take_back(self) -> None:
        """Give the service what it had before, the last first, and restore what ran.

        Errors: those of the service; RolloutError, DeadlineError (it did not settle).
        """
        while self.brought:
            earlier = self.brought[-1]
            if earlier.text:
                self._say(f"{earlier.name}: take back")
                self._restore(earlier)
            self.brought.pop()

    def _earlier(self, name: str, profiles: Mapping[str, StageProfile]) -> _Earlier:
        from pydantic import TypeAdapter

        try:
            text, _ = self.service.file(name)
        except NotFoundError:
            return _Earlier(name, "", {}, "", [])
        had = TypeAdapter(dict[str, StageProfile]).validate_python(
            {stage: each for stage, each in self.service.profiles(name).items() if stage in profiles}
        )
        changes = self.service.decisions(name, limit=1, applied_only=True, inputs=False)["decisions"]
        newest = changes[0]["decision_id"] if changes else ""
        return _Earlier(name, text, had, newest, _running(self.service.status(name)))

    def _restore(self, earlier: _Earlier) -> None:
        from ipa.files import dump_profile, parse, pipeline_in, pipeline_to_mapping

        name, file = earlier.name, pipeline_to_mapping(pipeline_in(parse(earlier.text, "")))

        def replace_file() -> None:
            try:
                self._replace(name, file)
            except InProgressError:
                # What ran replaces a change that does not get ready.
                self._undo(earlier)
                raise

        self._retry(replace_file)
        for stage, profile in earlier.profiles.items():
            self._retry(partial(self._give, name, stage, dump_profile(profile)))
        # Until its first tick the new loop shows what the one before saw.
        self._wait_for(name, lambda live: True)
        self._retry(partial(self._undo, earlier))
        self._wait_for(name, lambda live: live["settled"] and live["phase"] in CALM)

    def _retry(self, act: Callable[[], None]) -> None:
        """Act again while a change is in progress, or was made meanwhile; for `timeout_s` at most."""
        started_s = self.clock.monotonic_s()
        while True:
            try:
                return act()
            except (InProgressError, PreconditionError):
                if self.clock.monotonic_s() - started_s > self.timeout_s:
                    raise
            self.clock.wait(self.service.interval_s)

    def _wait_for(self, name: str, is_so: Callable[[Mapping[str, Any]], bool]) -> None:
        """Wait for a tick from now on whose live state is so; DeadlineError after `timeout_s`."""
        tick = self.service.status(name)["live"]["tick"]

        def check() -> None:
            live = self.service.status(name)["live"]
            if live["tick"] <= tick or not is_so(live):
                raise InProgressError(f"{name} has not settled within {self.timeout_s:g} s: {live['detail']}")

        try:
            self._retry(check)
        except InProgressError as error:
            raise DeadlineError(error.message) from error

    def _undo(self, earlier: _Earlier) -> None:
        """Restore the configuration that ran, unless it runs: the service may have restored it by itself."""
        status = self.service.status(earlier.name)
        if _running(status) == earlier.running:
            return
        order = ChangeOrder(at_revision(status["live"]["revision"]), self.by, self.reason, confirmed=True)
        if earlier.decision:
            self.service.rollback(earlier.name, earlier.decision, order)
        else:
            configs = [StageConfig(**config) for config in earlier.running]
            self.service.apply(earlier.name, configs, order)

    def _replace(self, name: str, file: Mapping[str, Any]) -> None:
        _, version = self.service.file(name)
        self.service.replace(name, file, version=version, by=self.by, reason=self.reason)

    def _give(self, name: str, stage: str, text: str) -> None:
        _, version = self.service.file(name)
        self.service.give_profile(name, stage, text, version=version, by=self.by, reason=self.reason)

    def _check(self, name: str, smoke: Smoke) -> None:
        self._say(f"{name}: send a request")
        for _ in range(TRIES):
            fault = smoke(name)
            if not fault:
                return
            self.clock.wait(self.service.interval_s)
        raise RolloutError(f"{name} does not answer its smoke request: {fault}")

    def _say(self, words: str) -> None:
        self.console.print(words, markup=False)


def deployed(deployment: Deployment, bring: Callable[[], None]) -> None:
    """Bring them; if that fails, take all back and raise the error again, which then says so."""
    try:
        bring()
    except IpaError as error:
        names = ", ".join(each.name for each in deployment.brought)
        if not names:
            raise
        try:
            deployment.take_back()
        except IpaError as other:
            raise IpaError(
                f"{error.message}; and the change could not be taken back: {other.message}",
                hint=f"The service may have parts of the change: look at `ipa status` of {names}.",
            ) from error
        raise type(error)(
            f"{error.message}; the service is as it was before: {names}",
            hint=error.hint,
            problems=error.problems,
        ) from error


def _running(status: Mapping[str, Any]) -> list[Any]:
    return [stage["config"] for stage in status["live"]["stages"]]
