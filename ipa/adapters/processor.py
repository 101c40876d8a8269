"""The processor of this machine."""

from __future__ import annotations

import platform
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """The model's name as the kernel has it; where it has none, that of the architecture.

    A name without a number is that of many models: virtual machines say "AMD EPYC" of processors of which one
    is twice as quick as another. Family and model follow it then, as in "AMD EPYC (family 26, model 2)".
    """
    try:
        first, _, _ = cpuinfo.read_text("utf-8").partition("\n\n")
    except OSError:
        first = ""
    lines = (line.partition(":") for line in first.splitlines())
    said = {key.strip(): value.strip() for key, _, value in lines}
    name = said.get("model name", "")
    if not name:
        return platform.processor() or platform.machine()
    if any(map(str.isdigit, name)) or "model" not in said:
        return name
    return f"{name} (family {said.get('cpu family', 'unknown')}, model {said['model']})"
