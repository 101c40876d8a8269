"""O6: what is installed is what was locked, and what was swapped is refused."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.fakes.children import run_process
from tests.faults.table import Case
from tools import advisories, sbom

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
REQUIREMENT = re.compile(r"^([A-Za-z0-9][\w.\-]*)(\[[^\]]*\])?(.*)$")


def entries(text: str) -> list[str]:
    """Each requirement of a lock with all that belongs to it, on a line."""
    joined = text.replace("\\\n", " ")
    return [line for line in joined.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def wheel(folder: Path, payload: str, of: str = "sample", version: str = "1.0") -> Path:
    """A package that is one line."""
    name, info = folder / f"{of}-{version}-py3-none-any.whl", f"{of}-{version}.dist-info"
    files = {
        f"{of}.py": payload,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {of}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    hashes = {
        path: base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        for path, text in files.items()
    }
    record = [f"{path},sha256={hashes[path]},{len(text)}" for path, text in files.items()]
    with zipfile.ZipFile(name, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
        archive.writestr(f"{info}/RECORD", "\n".join([*record, f"{info}/RECORD,,"]) + "\n")
    return name


def installed(folder: Path, lock: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--require-hashes"]
    where = ["--find-links", str(folder), "--target", str(folder / "there"), "-r", str(lock)]
    return run_process([*command, *where])


def test_o6_every_requirement_of_every_lock_has_its_version_and_hashes(case: Case) -> None:
    lacking = []
    count = 0
    for lock in LOCKS:
        if lock.name == "overrides.txt":
            continue
        for entry in entries(lock.read_text()):
            match = REQUIREMENT.match(entry)
            count += 1
            if match is None or not match[3].startswith("==") or "--hash=sha256:" not in entry:
                lacking.append(f"{lock.name}: {entry[:40]}")
    case.equal("requirements without version or hash", lacking, [])
    case.note("requirements", count)
    assert count > 100


def test_o6_images_have_what_the_tests_have(case: Case) -> None:
    versions = [
        {entry.split()[0].split(";")[0] for entry in entries((ROOT / "requirements" / name).read_text())}
        for name in ("all.txt", "build.txt", "service.txt", "dataplane.txt", "stage.txt")
    ]
    case.equal("of an image, not of the tests", sorted(set().union(*versions[1:]) - versions[0]), [])


def test_o6_what_was_swapped_is_not_installed(case: Case, tmp_path: Path) -> None:
    good = wheel(tmp_path, "right = True\n")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"sample==1.0 --hash=sha256:{hashlib.sha256(good.read_bytes()).hexdigest()}\n")
    whole = installed(tmp_path, lock)
    if whole.returncode:
        pytest.fail(whole.stderr)
    wheel(tmp_path, "right = False\n")
    (tmp_path / "there" / "sample.py").unlink()
    swapped = installed(tmp_path, lock)
    case.equal("installed despite a swapped file", int((tmp_path / "there" / "sample.py").exists()), 0)
    assert swapped.returncode != 0
    assert "DO NOT MATCH" in swapped.stderr
    lock.write_text("sample==1.0\n")
    assert "hashes" in installed(tmp_path, lock).stderr.lower()


def test_o6_the_installer_itself_is_of_the_lock(case: Case, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "tools", tmp_path / "tools")
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (version,) = re.findall(r"^uv==(\S+)", (ROOT / "requirements" / "all.txt").read_text(), re.MULTILINE)
    wheel(tmp_path, "right = False\n", "uv", version)
    done = run_process(
        [tmp_path / "tools" / "install.sh"],
        env={
            **os.environ,
            "PYTHON": sys.executable,
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(tmp_path),
        },
    )
    case.equal("swapped installers installed", len(list((tmp_path / ".venv").rglob("uv.py"))), 0)
    assert done.returncode != 0
    assert "DO NOT MATCH" in done.stderr


@pytest.mark.parametrize("image", ["dataplane", "service", "stage"])
def test_o6_the_sbom_of_an_image_is_its_lock(case: Case, image: str) -> None:
    text = (ROOT / "requirements" / f"{image}.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = {
        (each["name"], each["version"]): {
            hashed["content"] for hashed in each["externalReferences"][0]["hashes"]
        }
        for each in json.loads(text)["components"]
    }
    lock, elsewhere = {}, set()
    for entry in entries((ROOT / "requirements" / f"{image}.txt").read_text()):
        head, *hashes = entry.split(" --hash=sha256:")
        requirement, _, marker = (part.strip() for part in head.partition(";"))
        name, _, version = requirement.partition("==")
        lock[name, version] = {each.strip() for each in hashes}
        # What no image has: it is Linux, and its Python is 3.13.
        if re.fullmatch(r"python_full_version < '3\.1[123]'|.*\bsys_platform == 'win32'", marker):
            elsewhere.add((name, version))
    wanted = {key: hashes for key, hashes in lock.items() if key not in elsewhere}
    case.equal("packages in the lock or the SBOM alone", sorted(wanted.keys() ^ listed.keys()), [])
    case.equal("packages with other hashes", [key for key in wanted if wanted[key] != listed[key]], [])
    case.note("packages in the SBOM", len(listed))
    assert all(
        each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}"
        for each in json.loads(text)["components"]
    )


def test_o6_a_lock_that_moved_on_without_its_sbom_is_found(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("requirements", "deploy/docker", "tools"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(sbom, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["sbom", "--check"])
    case.equal("exit code without a drift", sbom.main(), 0)
    case.equal("false drifts", capsys.readouterr().out.splitlines(), [])
    lock = tmp_path / "requirements" / "dataplane.txt"
    text = lock.read_text()
    moved = {
        "version": text.replace("httptools==", "httptools==9"),
        "hash": text.replace("--hash=sha256:0", "--hash=sha256:f", 1),
        "package": text.replace("httptools==", "httptool=="),
    }
    unseen = []
    for what, other in moved.items():
        lock.write_text(other)
        code = sbom.main()
        if other == text or code != 1 or "dataplane.cdx.json differs" not in capsys.readouterr().out:
            unseen.append(what)
    case.equal(f"drifts of {', '.join(moved)} that were not seen", unseen, [])


def test_r13_no_lock_has_a_known_advisory_without_a_reason(
    case: Case, capsys: pytest.CaptureFixture[str]
) -> None:
    case.equal("exit code", advisories.main(["--offline"]), 0)
    printed = capsys.readouterr().out
    copy = json.loads(advisories.COPY.read_text())
    assert f"the copy of {copy['date']}, which knows nothing newer" in printed
    case.note("advisories known", len(copy["advisories"]))
    case.at_least("packages", len(advisories.packages(advisories.locks())), 150)


def test_r13_a_lock_with_starlette_0_46_2_is_refused(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = tmp_path / "service.txt"
    for version, code in (("0.46.2", 1), ("0.49.1", 1), ("1.10.0", 0)):
        lock.write_text(f"starlette=={version} \\\n    --hash=sha256:{'0' * 64}\n")
        case.equal(f"exit code of {version}", advisories.main(["--offline", str(lock)]), code)
        printed = capsys.readouterr().out
        assert ("CVE-2025-62727" in printed) is (version == "0.46.2")


def test_r13_what_the_service_answers_for_is_not_judged_by_the_copy(case: Case, tmp_path: Path) -> None:
    answers = [
        {
            "name": "Flask_Like",
            "version": "1.0",
            "vulns": [{"id": "A-1", "aliases": ["CVE-1"], "fix_versions": ["1.1"]}],
        },
        {"name": "starlette", "version": "1.10.0", "vulns": []},
        {"name": "unknown", "skip_reason": "not found"},
    ]
    audit = tmp_path / "answers.py"
    audit.write_text(f"print({json.dumps(json.dumps({'dependencies': answers}))})")
    findings, answered = advisories.audit([], (sys.executable, str(audit)))
    case.equal("findings", [str(each) for each in findings], ["flask-like 1.0: A-1, CVE-1; fixed in 1.1. "])
    case.equal("answered", sorted(answered), [("flask-like", "1.0"), ("starlette", "1.10.0")])
    audit.write_text("raise SystemExit('no network')")
    case.equal("unreachable", advisories.audit([], (sys.executable, str(audit))), ([], set()))
