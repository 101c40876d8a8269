"""The parts that the service depends on, and whether it can serve."""

from __future__ import annotations

from dataclasses import dataclass

import ipa


@dataclass(frozen=True, slots=True)
class DependencyCheck:
    """A check of a dependency. One that is not `required` may fail without making the service unready."""

    name: str
    ok: bool
    detail: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class CheckView:
    """The state of a dependency."""

    name: str
    ok: bool
    required: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """The readiness of the API; `degraded` if a dependency fails that is not required."""

    ready: bool
    degraded: bool
    checks: tuple[CheckView, ...] = ()
    version: str = ipa.__version__
