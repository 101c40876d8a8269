"""Checks of every argument and option of the command line.

Numbers must be finite and fit arithmetic and JSON; texts and paths must be ones that the system takes. The
ranges of one option are declared with that option (`min`, `max`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from ipa.model.errors import UsageError

# Whole numbers up to here are exact as a float, which JSON numbers are; larger quantities are typos.
MOST_COUNT = 2**53
MOST_NUMBER = 1e12
# PATH_MAX and NAME_MAX of Linux.
MOST_TEXT_BYTES = 4096
MOST_NAME_BYTES = 255


def checking(verb: Callable[..., Any]) -> Callable[..., Any]:
    """The verb, which checks its arguments first; UsageError names the option."""
    names = {name: shown for name, _, shown in parameters(verb)}

    @wraps(verb)
    def checked(*args: Any, **kwargs: Any) -> Any:
        for name, value in kwargs.items():
            for one in value if isinstance(value, list | tuple) else (value,):
                fault = fault_of(one)
                if fault:
                    raise UsageError(f"{names.get(name, name)} {_shown(one)} {fault}")
        return verb(*args, **kwargs)

    return checked


def parameters(verb: Callable[..., Any]) -> Iterator[tuple[str, type, str]]:
    """The name, the type and the option (or the argument's name) of each parameter, as it is typed."""
    hints = get_type_hints(verb, include_extras=True)
    for name, parameter in inspect.signature(verb).parameters.items():
        kind, info = hints[name], parameter.default
        if get_origin(kind) is Annotated:
            kind, info = get_args(kind)[:2]
        yield name, _plain(kind), _option(name, info)


def _plain(kind: Any) -> type:
    """The type of one value: of `list[str] | None` it is `str`."""
    members = [each for each in get_args(kind) if each is not type(None)]
    return _plain(members[0]) if members else kind


def _option(name: str, info: Any) -> str:
    if isinstance(info, ArgumentInfo):
        return str(info.metavar or name.upper())
    declared: Sequence[str] = info.param_decls or () if isinstance(info, OptionInfo | ParameterInfo) else ()
    long = [each.partition("/")[0] for each in declared if each.startswith("--")]
    return (long or [f"--{name.replace('_', '-')}"])[0]


def fault_of(value: object) -> str:
    """The fault of an argument's value, empty for none."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, float):
        if not isfinite(value):
            return "is not a finite number"
        return f"is beyond {MOST_NUMBER:g}" if abs(value) > MOST_NUMBER else ""
    if isinstance(value, int):
        return f"is beyond {MOST_COUNT}" if abs(value) > MOST_COUNT else ""
    if isinstance(value, str | Path):
        return _text_fault(value)
    return ""


def _text_fault(value: str | Path) -> str:
    text = str(value)
    if "\0" in text:
        return "holds a NUL character"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "is not UTF-8"
    if size > MOST_TEXT_BYTES:
        return f"is longer than {MOST_TEXT_BYTES} bytes"
    if isinstance(value, Path) and any(len(part.encode()) > MOST_NAME_BYTES for part in value.parts):
        return f"has a name longer than {MOST_NAME_BYTES} bytes"
    return ""


def _shown(value: object) -> str:
    """The value for a message: shortened, and without control characters."""
    text = ascii(str(value)) if isinstance(value, str | Path) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
