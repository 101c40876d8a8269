"""State machine of a watch, its next step and its news: pure values, no thread and no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from ipa.adapters.kube.backoff import Backoff
from ipa.adapters.kube.responses import Json
from ipa.model.errors import UnavailableError

BACKOFF = Backoff(first_s=1.0, longest_s=30.0)
# A watch that ends sooner by itself was not let live.
SHORT_S = 1.0
GONE = 410


@dataclass(frozen=True, slots=True)
class Seen:
    """Relevant state of one object: its owner, the version of its spec, its ready and wanted replicas.

    An empty `spec` is one that is not looked at.
    """

    owner: str
    spec: str = ""
    ready: int = 0
    wanted: int = 0


Sight = Callable[[Json], Seen | None]


@dataclass(frozen=True, slots=True)
class Following:
    """Progress of a watch: its next `version` (empty: list first), the seen objects, failures in a row.

    `seen` is None before the first list: then nothing is news.
    """

    version: str = ""
    seen: Mapping[str, Seen] | None = None
    failures: int = 0

    @property
    def must_list(self) -> bool:
        """True if the watch must list first."""
        return not self.version

    def delay_s(self, draw: float) -> float:
        """Delay before the next attempt; none after a single failure, which may be the only one."""
        return BACKOFF.delay_s(self.failures - 1, draw)


@dataclass(frozen=True, slots=True)
class WatchUpdate:
    """The watch state after an event, and the names of the objects that changed."""

    state: Following
    news: frozenset[str] = field(default=frozenset())


def listed(state: Following, items: Iterable[Json], version: str, sight: Sight) -> WatchUpdate:
    """After a list. What differs from what was seen before it is news, so nothing is missed in between.

    UnavailableError where it has no version from which to watch.
    """
    if not version:
        raise UnavailableError("the list has no version")
    seen = {name: found for name, found in ((_name(one), sight(one)) for one in items) if found}
    before = state.seen
    names: set[str] = set()
    if before is not None:
        for name in before.keys() | seen.keys():
            names |= _news(before.get(name), seen.get(name))
    return WatchUpdate(replace(state, version=version, seen=seen), frozenset(names))


def heard(state: Following, event: Json, sight: Sight) -> WatchUpdate:
    """After one event of the watch. UnavailableError where it is none that a watch has."""
    kind, found = event.get("type"), event["object"]
    match kind:
        case "BOOKMARK":
            return WatchUpdate(replace(state, version=_version(found), failures=0))
        case "ERROR":
            if found.get("code") == GONE:
                return WatchUpdate(failed(state))
            raise UnavailableError("the watch ended with an error of the API server")
        case "ADDED" | "MODIFIED" | "DELETED":
            name = _name(found)
            after = sight(found) if kind != "DELETED" else None
            seen = dict(state.seen or {})
            news = _news(seen.pop(name, None), after)
            if after:
                seen[name] = after
            return WatchUpdate(Following(_version(found), seen), news)
        case _:
            raise UnavailableError("the watch has an event of an unknown type")


def ended(state: Following, lived_s: float) -> Following:
    """After the server ended the watch: it goes on where it was, slower where it is ended at once."""
    return replace(state, failures=0 if lived_s >= SHORT_S else state.failures + 1)


def failed(state: Following) -> Following:
    """After any failure, silence or 410: list, since what was missed is not known."""
    return replace(state, version="", failures=state.failures + 1)


def spec_of(found: Json) -> Seen:
    """The name of the object with its uid and generation."""
    metadata = found["metadata"]
    return Seen(_name(found), f"{metadata.get('uid')}/{metadata.get('generation')}")


def owned_by(kind: str) -> Sight:
    """The sight of Deployments that an object of that kind owns: the replicas that answer."""

    def sight(found: Json) -> Seen | None:
        owners = found["metadata"].get("ownerReferences") or []
        owner = next((one.get("name") for one in owners if one.get("kind") == kind), None)
        if not owner:
            return None
        ready = (found.get("status") or {}).get("readyReplicas") or 0
        wanted = (found.get("spec") or {}).get("replicas")
        return Seen(str(owner), ready=ready, wanted=1 if wanted is None else wanted)

    return sight


def _news(before: Seen | None, after: Seen | None) -> frozenset[str]:
    """Whose state has changed in a way worth a look at once: another spec, or fewer replicas that answer."""
    if before is None or after is None:
        one = before or after
        is_news = one is not None and (bool(one.spec) or (after is None and one.ready > 0))
        return frozenset({one.owner}) if one and is_news else frozenset()
    # Fewer because fewer are wanted is what was asked for.
    is_worse = after.ready < min(before.ready, after.wanted)
    return frozenset({after.owner}) if after.spec != before.spec or is_worse else frozenset()


def _text_of(found: Json, key: str, word: str) -> str:
    """A text of the object's metadata. UnavailableError if there is none: no server leaves it out."""
    metadata = found.get("metadata")
    text = metadata.get(key) if isinstance(metadata, dict) else None
    if not isinstance(text, str) or not text:
        raise UnavailableError(f"the watch has an object without a {word}")
    return text


_name = partial(_text_of, key="name", word="name")
_version = partial(_text_of, key="resourceVersion", word="version")
