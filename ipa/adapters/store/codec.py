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
    """One type's way to text and back; equal values give equal text."""

    def __init__(self, kind: type[T]) -> None:
        self._name = kind.__name__
        self._adapter: TypeAdapter[T] = TypeAdapter(kind)

    def text(self, value: T) -> str:
        """The value as JSON: keys sorted, no spaces."""
        plain: Any = self._adapter.dump_python(value, mode="json")
        return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    def value(self, text: str) -> T:
        """The value of such text; UnavailableError where the text is damaged."""
        try:
            return self._adapter.validate_python(json.loads(text))
        except (ValueError, ValidationError) as error:
            raise damaged(self._name, error) from error


def damaged(kind: str, error: Exception) -> UnavailableError:
    """The error for a row of that kind whose text is not what was written."""
    return UnavailableError(f"the store holds a {kind} that cannot be read: {error}", hint=RESTORE)


DECISION = Codec(Decision)
CONTROL = Codec(PipelineControl)
PROFILE = Codec(StageProfile)
KEPT_PLAN = Codec(StoredPlan)
