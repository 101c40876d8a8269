"""Options that name a policy, a forecaster or a solver: by name, or by reference to code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from ipa.forecast.registry import FORECASTERS
from ipa.optimize.registry import SOLVERS
from ipa.plugins import Registry
from ipa.policies.registry import POLICIES

REFERENCE = "or module:attribute"


def admitted(registry: Registry) -> Callable[[str | None], str | None]:
    """The callback of an option that names one of the registry, whose user may name code to load."""

    def admit(name: str | None) -> str | None:
        # Other names are looked up where they are used: completion and help need no package to be read.
        return registry.admit(name) if name and ":" in name else name

    return admit


def completed(registry: Registry) -> Callable[[str], list[str]]:
    """The completion of an option that names one of the registry."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in registry if name.startswith(incomplete)]

    return complete


def names(registry: Registry, *without: str) -> str:
    """The built-in names for a help text, which must not depend on what is installed."""
    known = ", ".join(name for name in registry.built_in if name not in without)
    return f"{known}; a plug-in's name, {REFERENCE}"


def option(default: Any, registry: Registry, *flags: str, help_text: str) -> Any:
    """An option that names one of the registry."""
    return typer.Option(
        default, *flags, help=help_text, callback=admitted(registry), autocompletion=completed(registry)
    )


POLICY = option("ours", POLICIES, "--policy", help_text=f"one of: {names(POLICIES, 'oracle')}")
SHADOW_POLICY = option(
    None, POLICIES, "--shadow-policy", help_text="a second one that only says what it would do"
)
FORECASTER = option(None, FORECASTERS, "--forecaster", help_text=f"one of: {names(FORECASTERS, 'foresight')}")
SOLVER = option(None, SOLVERS, "--solver", help_text=f"one of: {names(SOLVERS)}")
