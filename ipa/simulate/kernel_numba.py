"""The compiled inner loop, if numba is installed; without it the same loop runs as plain Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from ipa.model.errors import InputError
from ipa.simulate import kernel

KERNELS = ("auto", "numba", "plain")
# Takes the scalars, the arrays and the factors of `kernel.drive_plain`.
KernelDriver = Callable[[tuple[Any, ...], tuple[Any, ...], Any], None]


class CompiledDriver:
    """The loop compiled by numba."""

    def __init__(self) -> None:
        self._advance = _compiled(kernel.advance)

    def __call__(self, scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: Any) -> None:
        """See `kernel.drive_plain`."""
        before, after = arrays[: kernel.INPUTS], arrays[kernel.INPUTS :]
        while (
            which := self._advance(*scalars, *before, factors.values, factors.next, factors.last, *after)
        ) != kernel.DONE:
            factors.refill(which)


class LazyDriver:
    """Plain until enough work was done that loading the compiled loop (1.5 s) pays."""

    ENOUGH = 500_000

    def __init__(self) -> None:
        self._items = 0
        self._drive: KernelDriver = kernel.drive_plain

    def __call__(self, scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: Any) -> None:
        """See `kernel.drive_plain`."""
        if self._items >= self.ENOUGH:
            self._drive = drive("numba")
        self._items += len(arrays[0])
        self._drive(scalars, arrays, factors)


@cache
def drive(name: str = "auto") -> KernelDriver:
    """The driver of that name; all give equal results. "auto": plain at first, then numba if installed."""
    if name not in KERNELS:
        raise InputError(f"there is no kernel {name!r}", hint=f"There are: {', '.join(KERNELS)}")
    if name == "numba":
        return CompiledDriver()
    return kernel.drive_plain if name == "plain" or find_spec("numba") is None else LazyDriver()


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        import numba
    except ImportError as error:
        raise InputError("numba is not installed", hint="Install it with: pip install numba") from error
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(function)
