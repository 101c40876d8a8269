"""The parts that the service depends on, and whether it can serve."""

from __future__ import annotations

from dataclasses import dataclass

import ipa


@dataclass(frozen=True, slots=True)
class DependencyCheck:
    """One thing the service depends on. What is not `required` may fail without making us unready."""

    name: str
    ok: bool
    detail: str = ""
    required: bool = False


@dataclass(frozen=True, slots=True)
class CheckView:
    """One thing the service depends on."""

    name: str
    ok: bool
    required: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the API can serve; `degraded` where something that is not required fails."""

    ready: bool
    degraded: bool
    checks: tuple[CheckView, ...] = ()
    version: str = ipa.__version__
