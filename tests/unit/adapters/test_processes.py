"""Child processes, which end with what they started, and the name of the processor."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from ipa.adapters.processes import child_environment, processor_name, run

# Starts a grandchild that holds the pipes open, says its number, and waits for it.
FAMILY = (
    "import subprocess, sys; each = subprocess.Popen(['sleep', '6000']); "
    "print(each.pid, flush=True); each.wait()"
)
# More than the children take to start, far less than they would run.
WAIT_S = 300.0


def test_a_command_that_is_late_ends_with_what_it_started() -> None:
    with pytest.raises(TimeoutError):
        run([sys.executable, "-c", FAMILY], given=None, env=child_environment(), limit_s=1.0)


def test_a_command_is_given_its_input_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    done = run(["cat"], given=b"words", env=child_environment(), limit_s=WAIT_S)
    assert (done.returncode, done.stdout) == (0, b"words")
    assert b"canary" not in run(["env"], given=None, env=child_environment(), limit_s=WAIT_S).stdout


TWO_CPUS = """processor\t: 0
vendor_id\t: AuthenticAMD
cpu family\t: {family}
model\t\t: {model}
model name\t: {name}
stepping\t: 1

processor\t: 1
model name\t: another

"""


@pytest.mark.parametrize(
    ("family", "model", "name", "expected"),
    [
        # Milan and Turin, as a virtual machine names both; a batch took the second half the time.
        (25, 1, "AMD EPYC", "AMD EPYC (family 25, model 1)"),
        (26, 2, "AMD EPYC", "AMD EPYC (family 26, model 2)"),
        (6, 143, "Intel(R) Xeon(R) Processor", "Intel(R) Xeon(R) Processor (family 6, model 143)"),
        (25, 17, "AMD EPYC 9R14", "AMD EPYC 9R14"),
    ],
)
def test_a_name_of_many_models_is_told_with_family_and_model(
    tmp_path: Path, family: int, model: int, name: str, expected: str
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(TWO_CPUS.format(family=family, model=model, name=name))
    assert processor_name(cpuinfo) == expected


@pytest.mark.parametrize("text", ["", "processor\t: 0\nBogoMIPS\t: 50.00\nCPU part\t: 0xd40\n", None])
def test_without_a_name_it_is_the_architecture(tmp_path: Path, text: str | None) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    if text is not None:
        cpuinfo.write_text(text)
    assert processor_name(cpuinfo) == (platform.processor() or platform.machine())


def test_a_kernel_that_tells_no_numbers_has_the_name_alone(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("model name : AMD EPYC\n")
    assert processor_name(cpuinfo) == "AMD EPYC"
