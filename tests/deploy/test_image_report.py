"""Sizes, shared layers and SBOMs of the images in an OCI layout, of a small one made here."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tools.image_report import DPKG, PYTHON_SBOM, REF_NAME, RELEASE, debian_packages, images_in, sbom, table

ROOT = Path(__file__).resolve().parents[2]
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
    return {"digest": f"sha256:{digest}", "size": len(content)}


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
    python = (ROOT / "requirements" / "dataplane.cdx.json").read_bytes()
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
        b.layers[1].unpacked == len((ROOT / "requirements" / "dataplane.cdx.json").read_bytes()) + 1_024_000
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
