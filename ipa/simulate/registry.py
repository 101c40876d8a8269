"""The worlds of a simulation by name; light to import."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from math import inf
from typing import Any

from ipa.model.errors import UsageError
from ipa.plugins import Plugin, Registry

AS_PROFILED = "as-profiled"
# Joins worlds that hold together.
AND = "+"
_BATCHES = ("slow", "slow-stage", "slow-variant", "drift", "neighbours")
BUILT_IN = (AS_PROFILED, *_BATCHES, "bursts", "late-metrics", "no-room", "kills")
# A world is a function, or a class made without arguments, that takes a `SimSetup`, and a number if one was
# given after a colon, and returns the changed setup.
WORLDS = Registry(
    "ipa.worlds", "world", {name: f"ipa.simulate.worlds:{name.replace('-', '_')}" for name in BUILT_IN}
)


def worlds_in(text: str) -> Iterator[tuple[Plugin, Callable[..., Any], tuple[float, ...]]]:
    """Load each of the worlds joined by AND in the text: yield it, its function, and its argument if given.

    A trusted person may name `module:attribute`. After a known name, or after module:attribute, a colon is
    followed by the argument, a number above 0. Errors: UsageError (no such world; an argument that is no
    number, is missing or not taken), PluginError.
    """
    for part in text.split(AND):
        name, argument = _split(part)
        plugin = WORLDS.find(WORLDS.admit(name))
        loaded = plugin.load()
        with plugin.guarded("cannot be made:"):
            world = loaded() if isinstance(loaded, type) else loaded
            parameters = signature(world)
        try:
            parameters.bind(None, *argument)
        except TypeError as error:
            fault, right = ("takes no number", name) if argument else ("needs a number", f"{name}:1.5")
            raise UsageError(f"world {part!r}: {name} {fault}", hint=f"Write {right}.") from error
        yield plugin, world, argument


def _split(part: str) -> tuple[str, tuple[float, ...]]:
    """The name of a world and its argument, if it has one."""
    name, colon, text = part.rpartition(":")
    is_attribute = all(each.isidentifier() for each in text.split("."))
    if not colon or (is_attribute and ":" not in name and not WORLDS.is_known(name)):
        return part, ()
    try:
        argument = float(text)
    except ValueError:
        argument = 0.0
    if not 0 < argument < inf:
        raise UsageError(
            f"world {part!r}: {text!r} is not a number above 0",
            hint=f"Write {name} alone, or with a number, as {name}:1.5.",
        )
    return name, (argument,)
