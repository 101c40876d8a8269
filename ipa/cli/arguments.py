"""Verbs for typer: shared bundles of options become options of the verb, and every argument is checked.

Numbers must be finite and fit arithmetic and JSON; texts and paths must be valid for the system. The ranges
of one option are declared with that option (`min`, `max`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from typer.models import ArgumentInfo, ParameterInfo

from ipa.model.errors import UsageError

# Whole numbers up to here are exact as a float, which JSON numbers are; larger quantities are typos.
MOST_COUNT = 2**53
MOST_NUMBER = 1e12
# PATH_MAX and NAME_MAX of Linux.
MOST_TEXT_BYTES = 4096
MOST_NAME_BYTES = 255


class Bundle:
    """Options that several verbs take together: a dataclass whose defaults are options.

    In code it is constructed with keywords; options that are not given have their defaults.
    """

    def __post_init__(self) -> None:
        for each in fields(self):  # type: ignore[arg-type]
            value = getattr(self, each.name)
            if isinstance(value, ParameterInfo):
                object.__setattr__(self, each.name, value.default)


def verb(function: Callable[..., Any]) -> Callable[..., Any]:
    """The verb as a typer command: fields of its bundles become options; UsageError for an invalid value."""
    hints = get_type_hints(function, include_extras=True)
    bundles: dict[str, type[Any]] = {}
    spread: list[Parameter] = []
    for name, parameter in signature(function).parameters.items():
        kind = hints[name]
        if isinstance(kind, type) and issubclass(kind, Bundle) and is_dataclass(kind):
            bundles[name] = kind
            types = get_type_hints(kind, include_extras=True)
            spread += [
                Parameter(it.name, Parameter.KEYWORD_ONLY, default=it.default, annotation=types[it.name])
                for it in fields(kind)
            ]
        else:
            spread.append(parameter.replace(kind=Parameter.KEYWORD_ONLY, annotation=kind))

    @wraps(function)
    def checked(**given: Any) -> Any:
        for name, value in given.items():
            for one in value if isinstance(value, list | tuple) else (value,):
                fault = value_fault(one)
                if fault:
                    # Without control characters.
                    text = ascii(str(one)) if isinstance(one, str | Path) else str(one)
                    text = text if len(text) <= 60 else f"{text[:57]}..."
                    raise UsageError(f"{shown.get(name, name)} {text} {fault}")
        for name, kind in bundles.items():
            given[name] = kind(**{each.name: given.pop(each.name) for each in fields(kind)})
        return function(**given)

    checked.__signature__ = Signature(spread)  # type: ignore[attr-defined]
    checked.__annotations__ = {each.name: each.annotation for each in spread}
    shown = {name: option for name, _, option in parameters(checked)}
    return checked


def parameters(function: Callable[..., Any]) -> Iterator[tuple[str, type, str]]:
    """The name, the type and the option (or the argument's name, as typed) of each parameter."""
    for name, parameter in signature(function).parameters.items():
        kind, info = parameter.annotation, parameter.default
        if get_origin(kind) is Annotated:
            kind, info = get_args(kind)[:2]
        yield name, _plain(kind), _option(name, info)


def _plain(kind: Any) -> type:
    """The type of one value, such as `str` for `list[str] | None`."""
    members = [each for each in get_args(kind) if each is not type(None)]
    return _plain(members[0]) if members else kind


def _option(name: str, info: Any) -> str:
    if isinstance(info, ArgumentInfo):
        return str(info.metavar or name.upper())
    declared: Sequence[str] = getattr(info, "param_decls", None) or ()
    long = [each.partition("/")[0] for each in declared if each.startswith("--")]
    return (long or [f"--{name.replace('_', '-')}"])[0]


def value_fault(value: object) -> str:
    """The fault of an argument's value; empty if it has none."""
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
