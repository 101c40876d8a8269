"""O6: the wheel of a commit has the same bytes wherever it is built, and holds all that the package needs."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import time
import zipfile
from hashlib import sha256
from pathlib import Path

import pytest

from tests.faults.table import Case

ROOT = Path(__file__).resolve().parents[2]
# One worker builds for all.
pytestmark = [pytest.mark.xdist_group("wheel")]


def output_of(*command: str | Path, cwd: Path = ROOT, **environment: str) -> str:
    """The output of a command; fails with all of it where the command fails."""
    # Our own settings are not those of the tests.
    around = {name: value for name, value in os.environ.items() if not name.startswith("IPA_")}
    done = subprocess.run(
        command, cwd=cwd, env={**around, **environment}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def built(folder: Path, umask: int, zone: str) -> Path:
    """The wheel of the last commit, built in a clone of its own by a user of other habits."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True, umask=umask)
    (folder / ".venv").symlink_to(sys.prefix)
    # What lies about in a folder that is worked in.
    (folder / "ipa" / "notes.json").write_text("{}")
    (folder / "build" / "lib" / "ipa").mkdir(parents=True)
    (folder / "build" / "lib" / "ipa" / "gone.py").write_text("")
    output_of("tools/wheel.sh", cwd=folder, TZ=zone)
    (wheel,) = (folder / "dist").glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    made = tmp_path_factory.mktemp("wheels")
    return built(made / "here", 0o022, "UTC"), built(made / "a longer name" / "there", 0o077, "Asia/Tokyo")


def test_o6_a_wheel_built_twice_has_the_same_bytes(case: Case, wheels: tuple[Path, Path]) -> None:
    digests = {sha256(each.read_bytes()).hexdigest() for each in wheels}
    case.equal("different wheels of one commit", len(digests) - 1, 0)
    committed = time.gmtime(int(output_of("git", "log", "-1", "--format=%ct")))
    # A zip file counts in steps of two seconds.
    moment = (*committed[:5], committed[5] // 2 * 2)
    times = {each.date_time for each in zipfile.ZipFile(wheels[0]).infolist()}
    case.equal("files whose time differs from the commit's", sorted(times - {moment}), [])


def test_o6_the_wheel_holds_the_package_and_nothing_else(case: Case, wheels: tuple[Path, Path]) -> None:
    held = {name for name in zipfile.ZipFile(wheels[0]).namelist() if ".dist-info/" not in name}
    tracked = set(output_of("git", "ls-tree", "-r", "--name-only", "HEAD", "ipa").split())
    assert {
        "ipa/py.typed",
        "ipa/api/page/index.html",
        "ipa/files/schema/pipeline.schema.json",
    } <= held
    case.equal("files of the package that the wheel lacks", sorted(tracked - held), [])
    case.equal("files of the wheel that the package lacks", sorted(held - tracked), [])
    case.note("files", len(held))


def test_o6_the_wheel_installs_into_an_empty_venv(
    case: Case, wheels: tuple[Path, Path], tmp_path: Path
) -> None:
    output_of(sys.executable, "-m", "venv", "--without-pip", tmp_path)
    python = tmp_path / "bin" / "python"
    where = Path(output_of(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    output_of(
        sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", wheels[0]
    )
    # What it depends on; ipa as it is installed there is not among it, since its .pth is not read here.
    (where / "locked.pth").write_text(sysconfig.get_path("purelib"))
    imported = output_of(python, "-c", "import ipa; print(ipa.__file__)", cwd=tmp_path).strip()
    assert Path(imported).is_relative_to(where)
    version = f"ipa {output_of(python, '-c', 'import ipa; print(ipa.__version__)', cwd=tmp_path).strip()}"
    case.equal(
        "ipa --version of the wheel",
        output_of(tmp_path / "bin" / "ipa", "--version", cwd=tmp_path).strip(),
        version,
    )
    # With the schemas that it holds.
    assert output_of(tmp_path / "bin" / "ipa", "validate", "pipelines/video").startswith("OK")
