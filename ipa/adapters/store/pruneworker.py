"""The process of one pass over the store: what `Store.prune` does, beside the service (see `housekeeping`).

    python -m ipa.adapters.store.pruneworker

It reads what to do as JSON and answers so. Packing a segment takes a second of CPU time and some 50 MB: in
the service's own process ticks would have less of the interpreter, and the memory would stay with it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ipa.adapters.processes import asked_by_parent
from ipa.adapters.store.database import Access, close_engine, open_engine
from ipa.adapters.store.keeper import Keeper
from ipa.adapters.store.retention import Retention
from ipa.adapters.store.signing import keyring_of
from ipa.model.errors import IpaError


def answered(asked: dict[str, Any]) -> dict[str, Any]:
    """Make the pass; the answer holds its report and what the keeper found, or the error."""
    try:
        engine = open_engine(asked["store_url"], Access.WRITE)
        try:
            keeper = Keeper(engine, keyring_of(engine.url, asked["key_file"]))
            report = keeper.prune(asked["now_s"], Retention(**asked["retention"]), asked["within_s"])
        finally:
            close_engine(engine)
    except IpaError as error:
        return {"error": f"{error.message} {error.hint}".strip()}
    return {
        "report": asdict(report),
        "damaged": keeper.damaged,
        "is_bounded": keeper.is_bounded,
        "record_bytes": keeper.record_bytes,
    }


def main() -> None:
    """Answer one request."""
    question, answer = asked_by_parent()
    answer(answered(question))


if __name__ == "__main__":
    main()
