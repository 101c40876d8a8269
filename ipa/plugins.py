"""Plug-ins: policies, forecasters and targets by name, built-in ones and those of other installed packages.

A package declares one as an entry point, and is found once it is installed:

    [project.entry-points."ipa.policies"]
    acme = "acme_policy:Acme"

A `Registry` declares the built-in ones in the same form, so that they are found in a checkout that was not
installed again. A person at the command line may also name `module:attribute`. A request over the network may
not: it would load code that a client names. So such a name is known only after `Registry.admit`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import Any

from ipa.model.errors import IpaError, PluginError, UsageError

# The distribution that the built-in ones come with.
OURS = "ipa-serving"
# A message of somebody else's code may be pages long.
LONGEST_MESSAGE = 300


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plug-in that was found and not yet loaded.

    `reference` is `module:attribute`; `package` is the distribution with its version, empty for a reference
    that a person typed.
    """

    kind: str
    name: str
    reference: str
    package: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" + (f" (package {self.package})" if self.package else "")

    @property
    def is_ours(self) -> bool:
        """True if it belongs to this package."""
        return self.package == OURS

    def fault(self, words: str) -> PluginError:
        """The error that says what is wrong with the plug-in."""
        return PluginError(f"{self} {words}")

    def load(self) -> Any:
        """The object at `reference`. PluginError if it cannot be imported or is not there."""
        module_name, _, attribute = self.reference.partition(":")
        with self.guarded("cannot be imported:"):
            loaded: Any = import_module(module_name)
        try:
            for part in attribute.split("."):
                loaded = getattr(loaded, part)
        except AttributeError as error:
            raise self.fault(f"is not there: module {module_name} has no {attribute}") from error
        return loaded

    @contextmanager
    def guarded(self, doing: str = "raised") -> Iterator[None]:
        """Turn an exception that is not an IpaError into a PluginError that names plug-in and cause."""
        try:
            yield
        except IpaError:
            raise
        except (Exception, SystemExit) as error:
            message, kind = " ".join(str(error).split()), type(error).__name__
            shown = message if len(message) <= LONGEST_MESSAGE else f"{message[: LONGEST_MESSAGE - 1]}…"
            raise self.fault(f"{doing} {kind}: {shown}" if shown else f"{doing} {kind}") from error

    def check_has(self, instance: object, *names: str) -> None:
        """PluginError lists which of these attributes the object lacks, if any."""
        missing = [name for name in names if not hasattr(instance, name)]
        if missing:
            raise self.fault(f"does not fit: a {type(instance).__name__} has no {', '.join(missing)}")


@cache
def installed(group: str) -> tuple[tuple[str, str, str], ...]:
    """(name, reference, package with version) of each entry point of the group, sorted; read once."""
    # Importing it takes longer than most verbs need for all else.
    from importlib.metadata import entry_points

    entries = []
    for each in entry_points(group=group):
        package = f"{each.dist.name} {each.dist.version}" if each.dist else "unknown"
        entries.append((each.name, each.value.split("[")[0].strip(), package))
    return tuple(sorted(entries))


@dataclass(frozen=True, slots=True)
class Registry(Collection[str]):
    """The plug-ins of one kind by name; iterates over the built-in names, then the installed ones.

    `group` is the group of entry points, `kind` the noun for messages; `built_in` maps names to references.
    """

    group: str
    kind: str
    built_in: Mapping[str, str]
    _admitted: dict[str, Plugin] = field(default_factory=dict, repr=False)

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys((*self.built_in, *(name for name, *_ in installed(self.group)))))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, name: object) -> bool:
        """True for names that a request over the network may use: built-in and installed ones."""
        return name in self.built_in or any(name == each for each, *_ in installed(self.group))

    def is_known(self, name: str) -> bool:
        """True for names that `find` finds, including admitted ones."""
        return name in self or name in self._admitted

    def admit(self, name: str) -> str:
        """Return the name, which a trusted person gave; if it is `module:attribute`, it is known from now on.

        The current directory becomes importable for it. Errors: UsageError (no such name), PluginError.
        """
        if ":" in name and not self.is_known(name):
            module_name, _, attribute = name.partition(":")
            if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
                raise UsageError(
                    f"{name!r} names no {self.kind}",
                    hint="Write module:attribute, for example acme_policy:Acme.",
                )
            if "" not in sys.path:
                sys.path.append("")
            plugin = Plugin(self.kind, name, name)
            plugin.load()
            self._admitted[name] = plugin
        self.find(name)
        return name

    def find(self, name: str) -> Plugin:
        """The plug-in of that name.

        Errors: UsageError (unknown; `hint` lists the known ones), PluginError (two packages declare it).
        """
        plugins = [Plugin(self.kind, name, self.built_in[name], OURS)] if name in self.built_in else []
        plugins += [Plugin(self.kind, *each) for each in installed(self.group) if each[0] == name]
        if len(plugins) > 1:
            packages = " and ".join(plugin.package for plugin in plugins)
            raise PluginError(
                f"{self.kind} {name!r} is declared by {packages}",
                hint="Uninstall one of them, or name the one you mean as module:attribute.",
            )
        if plugins:
            return plugins[0]
        if name in self._admitted:
            return self._admitted[name]
        raise UsageError(f"there is no {self.kind} {name!r}", hint=self.known(name))

    def load(self, name: str) -> Any:
        """The object of that name. Errors: those of `find` and of `Plugin.load`."""
        return self.find(name).load()

    def known(self, name: str = "") -> str:
        """The known names in a sentence; for a `module:attribute` also the reason why it is refused."""
        words = f"There are: {', '.join(self)}"
        if ":" not in name:
            return words
        return (
            f"{words}. module:attribute loads code, so it is taken from the command line and the settings "
            f"only; install a package with an entry point in {self.group}."
        )
