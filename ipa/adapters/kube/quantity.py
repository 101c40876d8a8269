"""Kubernetes quantities of CPU and memory."""

from __future__ import annotations

import re
from decimal import Decimal

from ipa.model.resources import BY_NAME, CORES

MILLICORES = 1000
MIB_PER_GIB = 1024

_SCALE = {
    **{"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3")},
    **{unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", start=1)},
    **{f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", start=1)},
}
_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)([numkMGTPE]|[KMGTPE]i)?")


def parse_quantity(value: object) -> Decimal | None:
    """The number a quantity stands for ("500m" is 0.5, "1Gi" is 2**30); None where it is not a quantity."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    form = _FORM.fullmatch(str(value))
    return Decimal(form[1]) * _SCALE[form[2] or ""] if form else None


def cpu_quantity(cores: float) -> str:
    """The quantity of so many cores, in millicores: Kubernetes knows none smaller."""
    return f"{round(cores * MILLICORES)}m"


def quantity_of(name: str, amount: float) -> str:
    """The quantity of a resource by its name in `ipa.model.resources`: whole pieces of an accelerator."""
    known = BY_NAME.get(name)
    if known is None:
        return str(round(amount))
    return cpu_quantity(amount) if name == CORES else f"{round(amount * MIB_PER_GIB)}Mi"
