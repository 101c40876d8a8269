"""The inner loop compiled, where numba is installed; without it the same loop runs as plain Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from ipa.model.errors import InputError
from ipa.simulate import kernel

# (scalars, arrays, factors): see `kernel.drive_plain`.
Drive = Callable[[tuple[Any, ...], tuple[Any, ...], Any], None]
KERNELS = ("auto", "numba", "plain")


@cache
def drive(name: str = "auto") -> Drive:
    """The loop of that name; all give equal results. "auto": plain at first, then numba where installed."""
    if name not in KERNELS:
        raise InputError(f"there is no kernel {name!r}", hint=f"There are: {', '.join(KERNELS)}")
    if name == "plain" or (name == "auto" and find_spec("numba") is None):
        return kernel.drive_plain
    if name == "auto":
        return _Patient()
    advance = _compiled()

    def drive_compiled(scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: Any) -> None:
        before, after = arrays[: kernel.INPUTS], arrays[kernel.INPUTS :]
        while (
            which := advance(*scalars, *before, factors.values, factors.next, factors.last, *after)
        ) != kernel.DONE:
            factors.refill(which)

    return drive_compiled


class _Patient:
    """Plain until so much was done that loading the compiled loop (1.6 s) pays."""

    ENOUGH = 500_000

    def __init__(self) -> None:
        self._items = 0

    def __call__(self, scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: Any) -> None:
        run = kernel.drive_plain if self._items < self.ENOUGH else drive("numba")
        self._items += len(arrays[0])
        run(scalars, arrays, factors)


def _compiled() -> Any:
    try:
        import numba
    except ImportError as error:
        raise InputError("numba is not installed", hint="pip install 'ipa-serving[simulate]'") from error
    try:
        return numba.njit(cache=True)(kernel.advance)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(kernel.advance)
