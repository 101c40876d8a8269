"""Options that name a policy, a forecaster or a solver, and parsers of option values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import typer

from ipa.forecast.registry import FORECASTERS
from ipa.model.errors import UsageError
from ipa.optimize.registry import SOLVERS
from ipa.plugins import Registry
from ipa.policies.registry import POLICIES

# More rates than this in one sweep are a typo.
MOST_RATES = 10_000
E = TypeVar("E", bound=StrEnum)
REFERENCE = "or module:attribute"


def duration_s(option: str, text: str) -> float:
    """The seconds of a duration such as 90s; UsageError names the option."""
    from ipa.files.quantities import DURATION

    try:
        return DURATION.parse(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}", hint="For example 90s or 30min") from error


def memory_gib(option: str, text: str) -> float:
    """The GiB of a size such as 64GiB; UsageError names the option."""
    from ipa.files.quantities import MEMORY

    try:
        size_gib = MEMORY.parse(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}", hint="For example 512MiB or 64GiB") from error
    if not size_gib > 0:
        raise UsageError(f"{option} must be above 0, not {text}")
    return size_gib


def accelerator_counts(texts: Sequence[str]) -> dict[str, float]:
    """The count of each kind of accelerator; UsageError for anything but KIND=COUNT."""
    found = {}
    for text in texts:
        kind, _, count = text.rpartition("=")
        if "/" not in kind or not count.isdecimal():
            raise UsageError(
                f"--accelerators {text!r} is not KIND=COUNT",
                hint="For example --accelerators nvidia.com/gpu=4.",
            )
        if kind in found:
            raise UsageError(f"--accelerators names {kind!r} twice")
        found[kind] = float(count)
    return found


def parse_rates(text: str) -> list[float]:
    """The rates of `first:last[:step]` (both ends in) or of a list `1,2,5`; UsageError otherwise."""
    try:
        numbers = [float(part) for part in text.replace(":", ",").split(",")]
    except ValueError:
        numbers = []
    if not numbers or (":" in text and ("," in text or not 2 <= len(numbers) <= 3)):
        raise UsageError(
            f"--rates {text!r} is not a range or list of rates", hint="Use 1:45, 1:45:2 or 1,2,5"
        )
    if ":" not in text:
        return numbers
    first, last, step = numbers if len(numbers) == 3 else (*numbers, 1.0)
    if not (step > 0 and 0 <= last - first < MOST_RATES * step):
        raise UsageError(f"--rates {text!r} has no rates, or more than {MOST_RATES}")
    # By multiplication: 0.1 added ten times is not 1.
    return [first + step * index for index in range(int((last - first) / step + 1e-9) + 1)]


def choice_of(option: str, text: str, kind: type[E]) -> E:
    """The member of that name; UsageError names those there are."""
    if text not in list(kind):
        raise UsageError(f"{option} {text!r} is not known", hint=f"Use one of: {', '.join(kind)}")
    return kind(text)


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
    None, POLICIES, "--shadow-policy", help_text="a second one that only records what it would do"
)
FORECASTER = option(None, FORECASTERS, "--forecaster", help_text=f"one of: {names(FORECASTERS, 'foresight')}")
SOLVER = option(None, SOLVERS, "--solver", help_text=f"one of: {names(SOLVERS)}")
