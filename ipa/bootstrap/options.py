"""Options of `ipa serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ipa.model.decision import Mode
from ipa.simulate.realtime import Simulated


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Options of `ipa serve`; a local pipeline starts with the plan for `start_rate_rps`."""

    names: tuple[str, ...] = ()
    policy: str = "ours"
    objective: str | None = None
    mode: Mode | None = None
    start_rate_rps: float = 1.0
    folder: Path = Path("runs/local")
    # A second policy that only says what it would do.
    shadow_policy: str | None = None
    # The world of `ipa demo`.
    simulated: Simulated | None = None


__all__ = ["ServeOptions", "Simulated"]
