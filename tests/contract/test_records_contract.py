"""Which record a pipeline writes, over processes, restarts and owners."""

from __future__ import annotations

from dataclasses import replace

from ipa.adapters.store import Store
from ipa.control.audit.record import verify_lines
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from tests.contract.store_harness import Reopen, a_decision
from tests.contract.test_store_contract import a_kept_plan


def test_a_record_goes_on_over_restarts_and_is_another_for_another_namespace(
    store: Store, reopen: Reopen
) -> None:
    assert store.records.of("ocr") == "ocr"
    # What an older store holds under the name is taken over once, by whoever has the name then.
    assert store.records.resume("ocr", "vision") == "ocr"
    assert reopen().records.resume("ocr", "vision") == "ocr"
    store.record(a_decision(1))
    moved = reopen().records.resume("ocr", "speech")
    assert [it.decision_id for it in reopen().decisions("ocr~")] == ["ocr-1"]
    assert reopen().decisions("ocr") == []
    assert moved.startswith("ocr~") and reopen().records.of("ocr@hpa") == f"{moved}@hpa"
    assert reopen().records.resume("ocr", "vision") not in ("ocr", moved)


def test_what_is_kept_under_a_name_is_its_owners(store: Store, reopen: Reopen) -> None:
    store.records.begin("ocr", "vision")
    store.record(a_decision(1))
    store.set_control("ocr", PipelineControl(paused=True), Attribution(ControlAction.PAUSE, "ada"))
    store.plans.keep(replace(a_kept_plan(1), pipeline="ocr", record=store.records.of("ocr")))
    store.answers.claim("k", "m", "h", 1.0, store.records.of("ocr"))
    former = store.records.of("ocr")
    store.end_record("ocr")
    store.records.begin("ocr", "speech")
    for each in (store, reopen()):
        assert each.decisions("ocr") == [] and each.entries(0, 10, "ocr") == []
        assert each.control("ocr") == each.control("ocr", may_lag=True) == PipelineControl()
        assert each.verify("ocr").entries == 0
        assert each.answers.claim("k", "m2", "h", 2.0).mine
        each.answers.release("k")
        # By its record it is there still.
        assert [it.decision_id for it in each.decisions(former)] == ["ocr-1"]
        assert each.verify(former).entries == 2
    store.record(replace(a_decision(1), decision_id="next-1"))
    assert store.verify("ocr").entries == 1
    verified = verify_lines([entry.line() for entry in store.entries(0, 10)], {})
    assert {name: each.entries for name, each in verified.items()} == {former: 2, store.records.of("ocr"): 1}


def test_another_process_takes_up_what_was_begun(store: Store, reopen: Reopen) -> None:
    other = reopen()
    record = store.records.begin("ocr", "vision")
    assert other.records.of("ocr") == "ocr"
    other.records.read()
    assert other.records.of("ocr") == record
    assert other.records.adopt("ocr", "vision") == record
    # While it is given to another, or removed, there is none to take up.
    assert other.records.adopt("ocr", "speech") is None
    store.records.end("ocr")
    assert other.records.adopt("ocr", "vision") is None
    assert other.records.adopt("never", "vision") == "never"
