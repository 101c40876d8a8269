"""H8 in short: requests made up from the OpenAPI document. `make fuzz` asks ten thousand of them."""

from __future__ import annotations

import pytest

from experiments.fuzz.run import fuzz


@pytest.mark.timeout(300)
def test_made_up_requests_of_every_operation_find_nothing() -> None:
    found = fuzz(examples=4, steps=3, seed=1, is_short=True)
    assert found.findings == {}, found.details
    assert found.errors == []
    assert found.uncovered == []
    assert found.by_status[500] == 0
    assert found.cases > 4 * len(found.operations)
