"""The election, step by step; many replicas in rough weather are in the fault cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.control.election import (
    Election,
    Lease,
    LeaseAction,
    LeaseStep,
    LeaseTimes,
    leads,
    next_step,
    refused,
    release_of,
    resigned,
    saw,
    sending,
    unanswered,
    wrote,
)

TIMES = LeaseTimes(lease_s=15.0, renew_deadline_s=10.0, retry_s=2.0)
OTHERS = Lease("other", 15.0, "a", "a", 3, version="7")


def new() -> Election:
    return Election("me", TIMES)


def write(election: Election, now_s: float, *, took_s: float = 0.0, version: str = "9") -> Election:
    """The election after the write that is due was answered."""
    step = next_step(election, now_s, f"at {now_s}")
    assert step.act in (LeaseAction.CREATE, LeaseAction.REPLACE)
    return wrote(sending(election, step, now_s), version, now_s + took_s, 0.0)


def leader(now_s: float = 100.0) -> Election:
    """The replica that took a released lease at that time."""
    released = Lease("", 1.0, "", "z", 3, version="7")
    return write(saw(new(), released, now_s, 0.0), now_s)


def test_a_released_lease_is_taken_at_once() -> None:
    election = leader(100.0)
    assert leads(election, 100.0)
    assert election.lease == Lease("me", 15.0, "at 100.0", "at 100.0", 4)
    assert election.term == 1


def test_anothers_lease_is_waited_out_by_our_own_clock() -> None:
    election = saw(new(), OTHERS, 100.0, 0.0)
    assert next_step(election, 100.0, "now") == LeaseStep(LeaseAction.WAIT, wait_s=2.0)
    for now_s in (102.0, 104.0, 114.0):
        assert next_step(election, now_s, "now").act is LeaseAction.READ
        election = saw(election, OTHERS, now_s, 0.0)
    assert next_step(election, 114.0, "now") == LeaseStep(LeaseAction.WAIT, wait_s=1.0)
    election = saw(election, OTHERS, 115.0, 0.0)
    step = next_step(election, 115.0, "now")
    assert step == LeaseStep(LeaseAction.REPLACE, Lease("me", 15.0, "now", "now", 4, "7"))


def test_a_renewal_that_is_seen_starts_the_wait_anew() -> None:
    renewed = replace(OTHERS, renewed_at="b", version="8")
    election = saw(saw(new(), OTHERS, 100.0, 0.0), renewed, 114.0, 0.0)
    election = saw(election, renewed, 128.0, 0.0)
    assert next_step(election, 128.0, "now").act is LeaseAction.WAIT
    election = saw(election, renewed, 129.0, 0.0)
    assert next_step(election, 129.0, "now").act is LeaseAction.REPLACE


def test_another_version_is_a_change_even_where_it_says_the_same() -> None:
    """Between the two another may have led, and a hand put back what was there before."""
    same = replace(OTHERS, version="9")
    election = saw(saw(new(), OTHERS, 100.0, 0.0), same, 115.0, 0.0)
    assert next_step(election, 115.0, "now").act is LeaseAction.WAIT
    step = next_step(saw(election, same, 130.0, 0.0), 130.0, "now")
    assert step.act is LeaseAction.REPLACE
    assert step.lease is not None and step.lease.version == "9"


def test_a_longer_lease_of_another_is_kept() -> None:
    longer = replace(OTHERS, lease_s=60.0)
    election = saw(saw(new(), longer, 100.0, 0.0), longer, 159.0, 0.0)
    assert next_step(election, 159.0, "now").act is LeaseAction.WAIT
    assert next_step(saw(election, longer, 160.0, 0.0), 160.0, "now").act is LeaseAction.REPLACE


def test_a_shorter_lease_of_another_is_no_reason_to_hurry() -> None:
    """A hand may have shortened it; its holder counts on what it has written."""
    shorter = replace(OTHERS, lease_s=1.0)
    election = saw(saw(new(), shorter, 100.0, 0.0), shorter, 114.0, 0.0)
    assert next_step(election, 114.0, "now").act is LeaseAction.WAIT


def test_it_leads_until_the_deadline_after_the_sending() -> None:
    election = write(saw(new(), Lease("", 1.0, "", "z", version="7"), 100.0, 0.0), 100.0, took_s=4.0)
    assert leads(election, 109.9)
    assert not leads(election, 110.0)


def test_after_a_lapse_it_leads_anew_where_nobody_else_wrote() -> None:
    election = unanswered(leader(100.0), 105.0, 0.0)
    assert election.lease is not None
    election = write(saw(election, election.lease, 130.0, 0.0), 130.0)
    assert leads(election, 130.0)
    assert (election.term, election.from_s) == (2, 130.0)


def test_after_a_lapse_ours_is_waited_out_where_somebody_wrote_since() -> None:
    """Another may have led meanwhile, and a hand put back our record."""
    election = unanswered(leader(100.0), 105.0, 0.0)
    assert election.lease is not None
    restored = replace(election.lease, version="30")
    election = saw(election, restored, 130.0, 0.0)
    assert next_step(election, 130.0, "now").act is LeaseAction.WAIT
    assert next_step(saw(election, restored, 145.0, 0.0), 145.0, "now").act is LeaseAction.REPLACE


@pytest.mark.parametrize("jitter", [0.0, 1.0])
def test_a_write_without_an_answer_is_found_by_reading(jitter: float) -> None:
    election = saw(new(), Lease("", 1.0, "", "z", 3, version="7"), 100.0, jitter)
    step = next_step(election, 100.0, "now")
    election = unanswered(sending(election, step, 100.0), 103.0, jitter)
    assert not leads(election, 103.0)
    assert step.lease is not None
    election = saw(election, replace(step.lease, version="8"), 105.0, jitter)
    # From the sending, since it may have happened then.
    assert leads(election, 109.9) and not leads(election, 110.0)
    assert next_step(election, 105.0, "later").act is LeaseAction.REPLACE


def test_our_name_by_another_hand_is_waited_out() -> None:
    forged = replace(OTHERS, holder="me", version="8")
    election = saw(saw(new(), OTHERS, 99.0, 0.0), forged, 100.0, 0.0)
    assert not leads(election, 100.0)
    assert next_step(election, 100.0, "now").act is LeaseAction.WAIT
    assert next_step(saw(election, forged, 115.0, 0.0), 115.0, "now").act is LeaseAction.REPLACE


@pytest.mark.parametrize(
    "edited",
    [
        Lease("", 15.0, "at 100.0", "at 100.0", 4, version="10"),
        Lease("", 1.0, "at 100.0", "at 100.0", 4, version="10"),
        Lease("other", 15.0, "at 100.0", "at 100.0", 4, version="10"),
        Lease("me", 15.0, "at 100.0", "at 100.0", 9, version="10"),
        Lease("me", 15.0, "1970", "1970", 4, version="10"),
    ],
    ids=["cleared", "cleared and shortened", "given to another", "counted otherwise", "other times"],
)
def test_a_hand_that_takes_it_away_ends_it_at_once(edited: Lease) -> None:
    election = refused(leader(100.0), 102.0, 0.0)
    assert leads(election, 102.0)
    election = saw(election, edited, 102.1, 0.0)
    assert not leads(election, 102.1)
    assert next_step(election, 102.1, "now").act is LeaseAction.WAIT
    assert next_step(saw(election, edited, 117.1, 0.0), 117.1, "now").act is LeaseAction.REPLACE


def test_a_hand_that_leaves_it_ours_ends_nothing() -> None:
    election = refused(leader(100.0), 102.0, 0.0)
    shortened = Lease("me", 3.0, "at 100.0", "at 100.0", 4, version="10")
    election = write(saw(election, shortened, 102.1, 0.0), 102.1)
    assert leads(election, 112.0)
    assert election.lease is not None and election.lease.lease_s == 15.0
    assert election.term == 1


def test_who_makes_an_absent_lease_waits_for_whoever_may_still_lead() -> None:
    election = write(saw(new(), None, 100.0, 0.0), 100.0)
    assert not leads(election, 100.0)
    for now_s in (102.0, 104.0, 106.0, 108.0, 110.0, 112.0):
        election = write(election, now_s)
    assert not leads(election, 114.9)
    assert leads(election, 115.0)
    assert release_of(election, 114.0, "now") is None
    assert release_of(election, 115.0, "now") is not None


def test_the_leader_makes_a_deleted_lease_again_and_goes_on() -> None:
    election = saw(refused(leader(100.0), 102.0, 0.0), None, 102.1, 0.0)
    assert next_step(election, 102.1, "now").act is LeaseAction.CREATE
    election = write(election, 102.1)
    assert leads(election, 112.0)
    assert election.term == 1


def test_released_is_what_another_takes_at_once() -> None:
    released = release_of(leader(100.0), 101.0, "bye")
    assert released == Lease("", 1.0, "", "bye", 4)
    assert not leads(resigned(leader(100.0)), 101.0)
    other = saw(Election("other", TIMES), released, 500.0, 0.0)
    assert next_step(other, 500.0, "now").act is LeaseAction.REPLACE


def test_waits_are_shorter_by_the_jitter_only() -> None:
    waits = [next_step(unanswered(new(), 0.0, jitter), 0.0, "now").wait_s for jitter in (0.0, 0.5, 1.0)]
    assert waits == pytest.approx([2.0, 1.8, 1.6])


def test_times_that_let_two_lead_or_none_are_told_together() -> None:
    assert TIMES.faults() == ()
    faults = LeaseTimes(lease_s=1.5, renew_deadline_s=20.0, retry_s=30.0).faults()
    assert [words.split(" is ")[0] for words in faults] == [
        "the lease of 1.5 s",
        "the renew deadline of 20 s",
        "the retry of 30 s",
    ]
