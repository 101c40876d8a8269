"""Preconditions: the version of a thing that a change was made for."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.model.errors import PreconditionError


@dataclass(frozen=True, slots=True)
class Precondition:
    """The versions that a change was made for; `text` is how the caller wrote them."""

    versions: frozenset[str]
    text: str

    def check(self, version: str, what: str) -> None:
        """PreconditionError if the version of `what` is another one now."""
        now = plain_version(version)
        if now not in self.versions:
            raise PreconditionError(f'{what} is at "{now}", not {self.text}; read it again')


def plain_version(version: str) -> str:
    """The version without quotes, which HTTP puts around it."""
    return version.replace('"', "")


def at_revision(revision: str) -> Precondition:
    """The precondition of a change that was decided at that revision."""
    version = plain_version(revision)
    return Precondition(frozenset({version}), f'"{version}" when the change was decided')


@dataclass(frozen=True, slots=True)
class ChangeOrder:
    """A person's request for a change: by whom, why, and the versions that it was made for.

    `confirmed`: it may take capacity while requests are late.
    """

    expected: Precondition
    by: str = ""
    reason: str = ""
    confirmed: bool = False

    def words(self, what: str) -> str:
        """The detail of the decision: what was asked for, by whom, and why."""
        return f"{what} by {self.by or 'someone'}" + (f": {self.reason}" if self.reason else "")
