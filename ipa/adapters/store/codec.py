"""Values of the model to canonical JSON text and back."""

from __future__ import annotations

import json
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from ipa.adapters.store.sqlite_file import RESTORE
from ipa.control.ports import PipelineControl
from ipa.control.saved_plans import StoredPlan
from ipa.model.decision import Decision
from ipa.model.errors import UnavailableError
from ipa.model.profile import StageProfile

T = TypeVar("T")


class Codec(Generic[T]):
    """The codec of a type: to JSON text and back. Equal values have equal text."""

    def __init__(self, kind: type[T]) -> None:
        self._name = kind.__name__
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def text(self, value: T) -> str:
        """Return the value as JSON with sorted keys and no spaces."""
        plain: Any = self._adapter.dump_python(value, mode="json")
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def value(self, text: str) -> T:
        """Decode the text; UnavailableError if it is damaged."""
        try:
            return self._adapter.validate_python(json.loads(text))
        except (ValueError, ValidationError) as error:
            raise damaged(self._name, error) from error


def damaged(kind: str, error: Exception) -> UnavailableError:
    """Return the error for a row of that kind whose text cannot be decoded."""
    return UnavailableError(f"the store holds a {kind} that cannot be read: {error}", hint=RESTORE)


DECISION = Codec(Decision)
CONTROL = Codec(PipelineControl)
PROFILE = Codec(StageProfile)
KEPT_PLAN = Codec(StoredPlan)
