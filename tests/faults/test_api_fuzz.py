"""H8 in short: requests made up from the OpenAPI document. `make fuzz` asks ten thousand of them."""

from __future__ import annotations

from experiments.fuzz.run import fuzz
from tests.faults.table import Case


def test_h8_made_up_requests_of_every_operation_find_nothing(case: Case) -> None:
    report = fuzz(examples=2, steps=3, seed=1, is_short=True)
    assert report.findings == {}, report.details
    assert report.errors == []
    case.equal("5xx", sum(count for status, count in report.by_status.items() if status >= 500), 0)
    case.equal("undocumented statuses", report.of_check("status_code_conformance"), 0)
    case.equal("operations not exercised", report.uncovered, [])
    case.note("operations", len(report.operations))
    assert report.cases > 2 * len(report.operations)
