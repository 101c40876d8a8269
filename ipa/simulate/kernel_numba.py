"""The compiled inner loop, if numba is installed; without it the same loop runs as plain Python."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import Any

from ipa.model.errors import InputError
from ipa.simulate import kernel

KERNELS = ("auto", "numba", "plain")
# Insertion sort is quick if few elements pass others; of several groups an idle replica's last batch may pass
# all.
FEW_REPLICAS = 256
# Places among the arrays of `kernel.advance`.
SIZES, SLOTS, QUOTA = 3, 8, 11
DROP = 4


class PlainDriver:
    """The loop as plain Python. `release` is `kernel.release`, compiled; None if NumPy does its work."""

    release: Callable[..., Any] | None = None

    def __call__(self, scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: Any) -> None:
        """See `kernel.drive_plain`."""
        loop = kernel.advance_singles if _is_single(scalars, arrays) else kernel.advance
        kernel.drive_plain(loop, scalars, arrays, factors)


class CompiledDriver:
    """The loop compiled by numba."""

    def __init__(self) -> None:
        self._advance = _compiled(kernel.advance)
        self._singles = _compiled(kernel.advance_singles)
        self.release: Callable[..., Any] | None = _compiled(kernel.release)

    def __call__(self, scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: Any) -> None:
        """See `kernel.drive_plain`."""
        before, after = arrays[: kernel.INPUTS], arrays[kernel.INPUTS :]
        loop = self._singles if _is_single(scalars, arrays) else self._advance
        while (
            which := loop(*scalars, *before, factors.values, factors.next, factors.last, *after)
        ) != kernel.DONE:
            factors.refill(which)


class LazyDriver:
    """Plain until enough work was done that loading the compiled loop (1.5 s) pays."""

    ENOUGH = 500_000

    def __init__(self) -> None:
        self._items = 0
        self._drive: KernelDriver = drive("plain")
        self.release: Callable[..., Any] | None = None

    def __call__(self, scalars: tuple[Any, ...], arrays: tuple[Any, ...], factors: Any) -> None:
        """See `kernel.drive_plain`."""
        if self._items >= self.ENOUGH and self.release is None:
            self._drive = drive("numba")
            self.release = self._drive.release
        self._items += len(arrays[0])
        self._drive(scalars, arrays, factors)


KernelDriver = PlainDriver | CompiledDriver | LazyDriver


@cache
def drive(name: str = "auto") -> KernelDriver:
    """The driver of that name; all give equal results. "auto": plain at first, then numba if installed."""
    if name not in KERNELS:
        raise InputError(f"there is no kernel {name!r}", hint=f"There are: {', '.join(KERNELS)}")
    if name == "numba":
        return CompiledDriver()
    return PlainDriver() if name == "plain" or find_spec("numba") is None else LazyDriver()


def _is_single(scalars: tuple[Any, ...], arrays: tuple[Any, ...]) -> bool:
    return kernel.is_for(scalars[DROP], arrays[SIZES], arrays[SLOTS], arrays[QUOTA])


def _compiled(function: Callable[..., Any]) -> Any:
    try:
        import numba
    except ImportError as error:
        raise InputError("numba is not installed", hint="Install it with: pip install numba") from error
    try:
        return numba.njit(cache=True)(function)
    except RuntimeError:  # no folder to keep the compiled code in
        return numba.njit(function)
