"""The Dockerfiles, linted, pinned and of files that are here; sizes and SBOMs of the images of a layout."""

from __future__ import annotations

import ast
import gzip
import hashlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Mapping
from fnmatch import fnmatch
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from ipa.files import load_pipelines
from ipa.targets.seldon.target import SELDON
from tests.deploy.rendering import CHART, IMAGE, ROOT, tool
from tests.fakes.children import run_process
from tools.image_report import DPKG, PYTHON_SBOM, REF_NAME, RELEASE, debian_packages, images_in, sbom, table

FOLDER = ROOT / "deploy" / "docker"
FILES = sorted(FOLDER.glob("*.Dockerfile"))
IDS = [path.stem for path in FILES]
Instruction = tuple[str, str]


def instructions(path: Path) -> list[Instruction]:
    """Each instruction with its words; lines that go on are joined, ARGs have their defaults."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    lines = [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines())]
    for name, given, default in (rest.partition("=") for word, rest in lines if word == "ARG"):
        if not given:
            continue
        lines = [(word, rest.replace(f"${{{name}}}", default)) for word, rest in lines]
    return [(word, rest) for word, rest in lines if word]


def copied(path: Path) -> list[str]:
    """The files copied from the repository."""
    return [
        source
        for word, rest in instructions(path)
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]


def ignored(path: str) -> bool:
    """True if .dockerignore leaves it out: the last line that fits counts."""
    is_out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.removeprefix("!")
        if line and not line.startswith("#") and (fnmatch(path, rule) or path.startswith(rule + "/")):
            is_out = not line.startswith("!")
    return is_out


def test_there_are_three() -> None:
    assert IDS == ["dataplane", "service", "stage"]


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = run_process([tool("hadolint"), str(path)])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_what_is_copied_is_here_and_not_ignored(path: Path) -> None:
    sources = copied(path)
    assert sources
    tracked = run_process(["git", "ls-files", "--", *sources], cwd=ROOT, check=True).stdout.split()
    for source in sources:
        assert any(each == source or each.startswith(source + "/") for each in tracked), source
        assert not ignored(source), source
    assert all(ignored(each) for each in (".git", ".venv", "tests", "runs", "x.sqlite3"))


@pytest.mark.parametrize("path", FILES, ids=IDS)
def test_bases_are_pinned_and_nobody_is_root(path: Path) -> None:
    lines = instructions(path)
    bases = [rest.split()[0] for word, rest in lines if word == "FROM"]
    # One base, and one to build on, without a default: who builds passes them, by digest or made here.
    assert bases == ["${BUILD_IMAGE}", "${BASE_IMAGE}"]
    assert {("ARG", "BASE_IMAGE"), ("ARG", "BUILD_IMAGE")} <= set(lines)
    assert not any(re.search(r"FROM .*(:|@)", line) for line in path.read_text().splitlines())
    user = [rest for word, rest in lines if word == "USER"][-1]
    assert user == "10001:10001"
    # What is installed has the hashes of its lock, what builds our own included; nothing else is fetched.
    pips = [
        step
        for word, rest in lines
        if word == "RUN"
        for step in re.split(r"&&|;", rest)
        if re.search(r"\bpip .*\b(install|wheel)\b", step)
    ]
    locks = [match[1] for step in pips if (match := re.search(r"-r requirements/(\w+)\.txt", step))]
    assert locks == ["build", path.stem]
    for step in pips:
        hashed = re.search(r"--require-hashes --no-deps --only-binary :all: [\w -]*-r requirements/", step)
        assert hashed or "--no-deps --no-index " in step or "wheel --no-deps --no-build-isolation " in step
    # And beside it what that is.
    assert ("COPY", f"requirements/{path.stem}.cdx.json /opt/ipa/sbom.cdx.json") in lines


def names(lock: str) -> dict[str, set[str]]:
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(
        r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE
    ):
        versions.setdefault(name, set()).add(version)
    return versions


@pytest.mark.parametrize("lock", [*IDS, "build"])
def test_its_lock_has_the_versions_that_are_tested(lock: str) -> None:
    whole, part = names("all"), names(lock)
    assert part
    assert {name: versions for name, versions in part.items() if versions != whole.get(name)} == {}


STAGES = ("pipelines.digits", "pipelines.ocr", "pipelines.text")
# A Python that has only what a lock names, and what is of no package: the tests' own has more.
ONLY_OF_THE_LOCK = """
import json, re, sys
from importlib.metadata import packages_distributions
given = set(json.loads(sys.argv[1]))
normal = lambda name: re.sub(r"[-_.]+", "-", name).lower()
absent = {
    module for module, owners in packages_distributions().items()
    if module not in ("ipa", "pipelines") and not given & {normal(owner) for owner in owners}
}
finders = list(sys.meta_path)
class Only:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            return None
        found = (finder.find_spec(name, path, target) for finder in finders)
        return next((spec for spec in found if spec is not None), None)
sys.meta_path[:] = [Only()]
for module in sys.argv[2:]:
    __import__(module)
"""


@pytest.mark.parametrize(
    ("image", "modules", "some"),
    [
        ("dataplane", ["ipa.dataplane.queue", "ipa.dataplane.router"], "orjson"),
        ("service", ["ipa.cli.main", "ipa.bootstrap.app", "ipa.adapters.kube.client"], "numpy"),
        ("stage", ["mlserver.cli.main", *(f"{each}.runtime" for each in STAGES)], "onnxruntime"),
    ],
)
def test_an_image_has_what_it_imports(image: str, modules: list[str], some: str) -> None:
    command = [sys.executable, "-c", ONLY_OF_THE_LOCK, json.dumps(sorted(names(image))), *modules]
    done = run_process(command, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-1500:]
    # And it is noticed if something is missing.
    command[3:] = [json.dumps(sorted(set(names(image)) - {some})), some]
    assert f"No module named '{some}'" in run_process(command, cwd=ROOT).stderr


def test_commands_start_what_is_there() -> None:
    commands = {
        path.stem: ast.literal_eval(rest)
        for path in FILES
        for word, rest in instructions(path)
        if word in {"CMD", "ENTRYPOINT"}
    }
    for image in ("dataplane", "stage"):
        assert find_spec(commands[image][commands[image].index("-m") + 1])
    assert commands["service"][0] == "serve"


def test_the_chart_runs_as_the_images_user_and_at_their_version() -> None:
    version = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert version
    assert chart["appVersion"] == chart["version"] == version[1]
    repository = IMAGE.partition("/")[2]
    assert f"build {repository} service" in (ROOT / "tools" / "images.sh").read_text()


BUILDER = """#!/bin/sh
echo "$@" >> "$CALLS"
"""


DIGEST = "python:3.12.12-slim-trixie@sha256:" + "0" * 64


def images(folder: Path, *words: str, base: str = DIGEST) -> subprocess.CompletedProcess[str]:
    """`tools/images.sh` where no other programs are than those of the folder, and what a shell needs."""
    for name in ("bash", "env", "sed", "dirname", "id"):
        (folder / name).symlink_to(tool(name))
    return run_process(
        [str(folder / "bash"), str(ROOT / "tools" / "images.sh"), *words],
        env={
            **{"PATH": str(folder), "CALLS": str(folder / "calls"), "REGISTRY": "registry.example"},
            **({"BASE_IMAGE": base} if base else {}),
        },
    )


def test_images_are_built_by_the_builder_that_is_there(tmp_path: Path) -> None:
    _podman(tmp_path)
    done = images(tmp_path, "digits")
    assert done.returncode == 0, done.stderr
    calls = [shlex.split(line) for line in (tmp_path / "calls").read_text().splitlines()]
    assert {call[call.index("--file") + 1] for call in calls} == {str(p.relative_to(ROOT)) for p in FILES}
    assert all(call[call.index("--tag") + 1].startswith("registry.example/ipa") for call in calls)
    assert [word for call in calls for word in call if word.startswith("PIPELINE=")] == ["PIPELINE=digits"]
    assert all({f"BASE_IMAGE={DIGEST}", f"BUILD_IMAGE={DIGEST}"} <= set(call) for call in calls)


def test_stages_of_every_pipeline_that_can_run_are_built(tmp_path: Path) -> None:
    _podman(tmp_path)
    assert images(tmp_path).returncode == 0
    calls = (tmp_path / "calls").read_text()
    runnable = {
        name: pipeline for name, pipeline in load_pipelines(ROOT / "pipelines").items() if pipeline.runnable
    }
    assert (
        re.findall(r"--tag registry.example/ipa/(\S+):", calls)
        == sorted(runnable)
        == ["digits", "ocr", "text"]
    )
    assert re.findall(r"PIPELINE=(\S+)", calls) == sorted(runnable)
    # And that image is what their stages run.
    for name, pipeline in runnable.items():
        for document in SELDON.render(pipeline, SELDON.smallest(pipeline)):
            used = re.findall(r"'image': '([^']+)'", str(document))
            assert set(used) == {
                re.sub(r"^.*--tag (registry.example/ipa/\w+:\S+).*$", r"\1", line)
                for line in calls.splitlines()
                if f"PIPELINE={name}" in line
            }


def _podman(folder: Path) -> None:
    builder = folder / "podman"
    builder.write_text(BUILDER.replace("#!/bin/sh", f"#!{tool('sh')}"))
    builder.chmod(0o755)


@pytest.mark.parametrize(
    "base", ["python:3.12", "python:3.12@sha256:abc", f"{DIGEST[:-1]}g", "python:3.12@sha512:" + "0" * 64]
)
def test_a_base_without_a_digest_is_refused_unless_it_is_asked_for(base: str, tmp_path: Path) -> None:
    for folder in ("refused", "tried"):
        (tmp_path / folder).mkdir()
        _podman(tmp_path / folder)
    done = images(tmp_path / "refused", base=base)
    assert done.returncode == 1
    assert "has no digest" in done.stderr
    assert "imagetools inspect" in done.stderr
    assert not (tmp_path / "refused" / "calls").exists()
    done = images(tmp_path / "tried", "--allow-unpinned", "digits", base=base)
    assert done.returncode == 0
    assert "warning: the base" in done.stderr
    assert "PIPELINE=digits" in (tmp_path / "tried" / "calls").read_text()


def test_without_a_builder_it_says_so(tmp_path: Path) -> None:
    done = images(tmp_path)
    assert done.returncode == 1
    assert "none of docker, podman, buildah is here" in done.stderr


def test_a_base_of_debian_says_what_is_missing_to_make_it(tmp_path: Path) -> None:
    done = images(tmp_path, base="")
    assert done.returncode == 1
    missing = "mmdebstrap buildah"
    assert f"no image was built: {missing if os.geteuid() == 0 else 'a base of'}" in done.stderr
    assert os.geteuid() != 0 or f"apt-get install {missing}" in done.stderr


HERE = Path(__file__).resolve().parents[2]
STATUS = """\
Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.41-12

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: ca-certificates
Status: install ok installed
Architecture: all
Version: 20250419
"""


def blob(layout: Path, content: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    path = layout / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
        "digest": f"sha256:{digest}",
        "size": len(content),
    }


def layer(files: Mapping[str, bytes]) -> bytes:
    body = io.BytesIO()
    with tarfile.open(fileobj=body, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(body.getvalue())


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Two images on one base; one of them replaces dpkg's status."""
    python = (HERE / "requirements" / "dataplane.cdx.json").read_bytes()
    base = layer({f"./{DPKG}": b"", RELEASE: b"13.2\n", "bin/sh": b"x" * 1_000_000})
    own = layer({PYTHON_SBOM: python, DPKG: STATUS.encode()})
    other = layer({PYTHON_SBOM: python, "srv/model": bytes(range(256)) * 4000})
    entries = []
    for name, layers in {"ipa/b:1": (base, other), "ipa/a:1": (base, own)}.items():
        manifest = json.dumps({"layers": [blob(tmp_path / "images", each) for each in layers]}).encode()
        entries.append({**blob(tmp_path / "images", manifest), "annotations": {REF_NAME: name}})
    (tmp_path / "images" / "index.json").write_text(json.dumps({"manifests": entries}))
    return tmp_path / "images"


def test_what_images_share_counts_once(layout: Path) -> None:
    a, b = images_in(layout)
    assert (a.name, b.name) == ("ipa/a:1", "ipa/b:1")
    assert a.layers[0] == b.layers[0]
    sizes = [each.stored for each in (a.layers[0], a.layers[1], b.layers[1])]
    assert (
        b.layers[1].unpacked == len((HERE / "requirements" / "dataplane.cdx.json").read_bytes()) + 1_024_000
    )
    text = table((a, b), ((16, 2), (16, 0)))
    assert f"| `ipa/a:1` | {(sizes[0] + sizes[1]) / 1e6:.1f} | " in text
    assert f" | {sizes[1] / 1e6:.1f} | 16 | 2 |" in text
    assert f"All together: {sum(sizes) / 1e6:.1f} MB compressed, on Debian 13.2." in text


def test_the_sbom_of_an_image_has_its_packages_of_both_kinds(layout: Path) -> None:
    a, _ = images_in(layout)
    text, python, debian = sbom(a)
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    names = {each["name"]: each["purl"] for each in json.loads(text)["components"]}
    assert (python, debian, len(names)) == (len(names) - 2, 2, python + 2)
    assert names["libc6"] == "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=debian-13"
    assert names["orjson"].startswith("pkg:pypi/orjson@")


def test_only_what_is_installed_counts() -> None:
    assert [name for name, _, _ in debian_packages(STATUS)] == ["libc6", "ca-certificates"]


def test_an_empty_layout_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "index.json").write_text('{"manifests": []}')
    with pytest.raises(ValueError, match="holds no image; make images"):
        images_in(tmp_path)
