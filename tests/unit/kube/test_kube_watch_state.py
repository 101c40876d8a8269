"""What of a watch is news, and what it does next: no thread, no connection."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.adapters.kube.watch_state import (
    Following,
    Seen,
    ended,
    failed,
    heard,
    listed,
    owned_by,
    spec_of,
)
from ipa.model.errors import UnavailableError

Json = dict[str, Any]

child = owned_by("SeldonDeployment")


def sdep(name: str = "a", generation: int = 1, uid: str = "u", version: str = "5") -> Json:
    return {
        "metadata": {"name": name, "uid": uid, "generation": generation, "resourceVersion": version},
        "status": {"state": version},
    }


def deployment(ready: int | None, wanted: int = 3, owner: str = "a") -> Json:
    owners = [{"kind": "SeldonDeployment", "name": owner}] if owner else []
    return {
        "metadata": {"name": "a-0", "resourceVersion": "5", "ownerReferences": owners},
        "spec": {"replicas": wanted},
        "status": {} if ready is None else {"readyReplicas": ready},
    }


def following(*objects: Json, sight: Any = spec_of) -> Following:
    return listed(Following(), objects, "4", sight).state


@pytest.mark.parametrize(
    ("kind", "after", "news"),
    [
        ("MODIFIED", sdep(version="6"), set()),
        ("MODIFIED", sdep(generation=2), {"a"}),
        ("MODIFIED", sdep(uid="other"), {"a"}),
        ("ADDED", sdep("b"), {"b"}),
        ("DELETED", sdep(), {"a"}),
        ("DELETED", sdep("b"), set()),
    ],
)
def test_another_spec_or_object_is_news_and_a_status_is_not(kind: str, after: Json, news: set[str]) -> None:
    step = heard(following(sdep()), {"type": kind, "object": after}, spec_of)
    assert step.news == news
    assert step.state.version == after["metadata"]["resourceVersion"]


@pytest.mark.parametrize(
    ("before", "after", "news"),
    [
        (deployment(3), deployment(2), {"a"}),
        (deployment(3), deployment(None), {"a"}),
        (deployment(2), deployment(3), set()),
        # Fewer, because fewer are wanted.
        (deployment(3), deployment(2, wanted=2), set()),
        (deployment(3), deployment(1, wanted=2), {"a"}),
        (deployment(3, owner=""), deployment(0, owner=""), set()),
    ],
)
def test_fewer_replicas_that_answer_are_news_of_their_owner(
    before: Json, after: Json, news: set[str]
) -> None:
    state = following(before, sight=child)
    assert heard(state, {"type": "MODIFIED", "object": after}, child).news == news


def test_a_deployment_that_goes_is_news_where_it_answered() -> None:
    for ready, news in ((2, {"a"}), (0, set())):
        state = following(deployment(ready), sight=child)
        assert heard(state, {"type": "DELETED", "object": deployment(ready)}, child).news == news
    # A new one answers nothing yet, and nothing is lost.
    assert heard(following(sight=child), {"type": "ADDED", "object": deployment(0)}, child).news == set()


def test_a_list_after_a_gap_tells_all_that_was_missed_and_the_first_tells_nothing() -> None:
    assert listed(Following(), [sdep()], "9", spec_of).news == set()
    before = failed(following(sdep("kept"), sdep("gone"), sdep("changed"), sdep("anew")))
    now = [sdep("kept", version="8"), sdep("changed", 2), sdep("anew", uid="v"), sdep("new")]
    step = listed(before, now, "9", spec_of)
    assert step.news == {"gone", "changed", "anew", "new"}
    assert (step.state.version, step.state.must_list) == ("9", False)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["edit", "delete", "status"])), max_size=30)
)
def test_a_list_after_a_gap_tells_what_the_events_would_have_told_of_what_differs(
    changes: list[tuple[str, str]],
) -> None:
    """Whatever happened in between: nothing that differs is missed, nothing that does not is told."""
    generations = dict.fromkeys("abc", 1)
    state = start = following(*(sdep(name) for name in "abc"))
    told: set[str] = set()
    for number, (name, change) in enumerate(changes):
        kind = "MODIFIED"
        if change == "delete" and generations.pop(name, None):
            kind = "DELETED"
        elif change == "edit" or name not in generations:
            generations[name] = number + 2
        event = {"type": kind, "object": sdep(name, generations.get(name, 0), version=str(number))}
        step = heard(state, event, spec_of)
        state, told = step.state, told | step.news
    now = [sdep(name, generation) for name, generation in generations.items()]
    news = listed(start, now, "99", spec_of).news
    assert news == {name for name in "abc" if generations.get(name) != 1}
    assert news <= told
    assert listed(state, now, "99", spec_of).news == set()


def test_a_bookmark_moves_the_version_and_410_makes_it_list() -> None:
    bookmark = {"type": "BOOKMARK", "object": {"kind": "Bookmark", "metadata": {"resourceVersion": "70"}}}
    state = heard(following(sdep()), bookmark, spec_of).state
    assert (state.version, state.must_list) == ("70", False)
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410}}
    assert heard(state, gone, spec_of).state.must_list
    with pytest.raises(UnavailableError):
        heard(state, {"type": "ERROR", "object": {"kind": "Status", "code": 500}}, spec_of)


@pytest.mark.parametrize(
    "event",
    [
        {"type": "RENAMED", "object": sdep()},
        {"object": sdep()},
        {"type": "MODIFIED", "object": {}},
        {"type": "MODIFIED", "object": {"metadata": []}},
        {"type": "MODIFIED", "object": {"metadata": {"name": "a"}}},
        {"type": "BOOKMARK", "object": {"metadata": {}}},
    ],
)
def test_what_is_no_event_is_an_error_of_ours(event: Json) -> None:
    with pytest.raises(UnavailableError):
        heard(following(sdep()), event, spec_of)


def test_a_list_without_a_version_is_a_failure_and_not_listed_again_at_once() -> None:
    with pytest.raises(UnavailableError):
        listed(Following(), [sdep()], "", spec_of)


def test_one_failure_goes_on_at_once_and_more_wait_longer() -> None:
    state = following(sdep())
    delays = []
    for _ in range(10):
        state = failed(state)
        delays.append(state.delay_s(0.0))
        state = listed(state, [sdep()], "9", spec_of).state
    assert delays == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0, 15.0]
    # A list alone is no success: only what the watch says is.
    assert state.failures == 10
    event = {"type": "MODIFIED", "object": sdep(version="6")}
    assert heard(state, event, spec_of).state.failures == 0


def test_a_watch_that_the_server_ends_goes_on_from_where_it_was() -> None:
    state = following(sdep())
    assert ended(state, 30.0) == state
    hasty = ended(ended(state, 0.1), 0.1)
    assert (hasty.version, hasty.must_list) == ("4", False)
    assert hasty.delay_s(0.0) == 0.5


def test_what_is_seen_of_either_kind() -> None:
    assert spec_of(sdep(generation=7)) == Seen("a", "u/7")
    assert child(deployment(2)) == Seen("a", ready=2, wanted=3)
    assert child({"metadata": {"name": "bare"}}) is None
