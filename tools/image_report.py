"""Sizes, layers and packages of images: `python -m tools.image_report [OCI LAYOUT] [--write]`.

Prints a table, and writes beside the layout the SBOM of each whole image: its Python packages, as the image
itself lists them, and its Debian packages. With `--write` docs/reference/images.md gets the table.
"""

from __future__ import annotations

import argparse
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from tools.chart_artifact import is_image

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "images.md"
REF_NAME = "org.opencontainers.image.ref.name"
PYTHON_SBOM = "opt/ipa/sbom.cdx.json"
DPKG = "var/lib/dpkg/status"
RELEASE = "etc/debian_version"
KEPT = (PYTHON_SBOM, DPKG, RELEASE)
MB = 1e6

HEAD = """\
# Images

`make images` builds the images of `deploy/docker` on a base of Debian's own archive, and `make images DOCS=1`
writes this page: what it built last. [Install on a cluster](../how-to/install-on-a-cluster.md) tells how to
build and push them. Sizes are compressed, as images are pushed and pulled, and unpacked. A layer that several
images have is pushed, pulled and kept once.

"""
SBOMS = """
Each image lists its Python packages with versions, hashes and licences in `/opt/ipa/sbom.cdx.json` (CycloneDX
1.6). `build/sbom` has those of the whole images, with the Debian packages as dpkg has them there.
"""
COLUMNS = (
    "image",
    "compressed, MB",
    "unpacked, MB",
    "compressed, in no other image, MB",
    "Python packages",
    "Debian packages",
)


@dataclass(frozen=True)
class Layer:
    """A layer: its digest, its sizes in bytes as stored and unpacked, and the files that are read here."""

    digest: str
    stored: int
    unpacked: int
    files: dict[str, bytes]


@dataclass(frozen=True)
class Image:
    """An image by its name in the layout, with its layers from the base up."""

    name: str
    layers: tuple[Layer, ...]

    def file(self, path: str) -> bytes:
        """The content of a file, that of the topmost layer that has it; KeyError if none has."""
        return next(layer.files[path] for layer in reversed(self.layers) if path in layer.files)


def images_in(layout: Path) -> tuple[Image, ...]:
    """The images of an OCI layout, by name; ValueError if there are none."""
    index = json.loads((layout / "index.json").read_text(encoding="utf-8"))
    read: dict[str, Layer] = {}
    images = []
    for entry in index["manifests"]:
        manifest = json.loads(_blob(layout, entry["digest"]).read_text(encoding="utf-8"))
        if not is_image(manifest):
            continue
        for each in manifest["layers"]:
            if each["digest"] not in read:
                read[each["digest"]] = _layer(layout, each)
        layers = tuple(read[each["digest"]] for each in manifest["layers"])
        images.append(Image(entry["annotations"][REF_NAME], layers))
    if not images:
        raise ValueError(f"{layout} holds no image; make images")
    return tuple(sorted(images, key=lambda image: image.name))


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs" / digest.replace(":", "/")


def _layer(layout: Path, entry: dict[str, Any]) -> Layer:
    files = {}
    unpacked = 0
    with tarfile.open(_blob(layout, entry["digest"]), "r|*") as archive:
        for member in archive:
            unpacked += member.size
            path = member.name.removeprefix("./").removeprefix("/")
            if path in KEPT and (content := archive.extractfile(member)) is not None:
                files[path] = content.read()
    return Layer(entry["digest"], entry["size"], unpacked, files)


def debian_packages(status: str) -> Iterator[tuple[str, str, str]]:
    """Name, version and architecture of each package that is installed by dpkg's status file."""
    for entry in status.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", entry, re.MULTILINE))
        if fields.get("Status") == "install ok installed":
            yield fields["Package"], fields["Version"], fields["Architecture"]


def sbom(image: Image) -> tuple[str, int, int]:
    """The SBOM of the whole image, and its numbers of Python and Debian packages."""
    bom: Bom = Bom.from_json(json.loads(image.file(PYTHON_SBOM)))  # type: ignore[attr-defined]
    python = len(bom.components)
    release = image.file(RELEASE).decode().strip().partition(".")[0]
    debian = 0
    for name, version, architecture in debian_packages(image.file(DPKG).decode()):
        of = {"arch": architecture, "distro": f"debian-{release}"}
        purl = PackageURL("deb", "debian", name, version, of)
        bom.components.add(Component(name=name, version=version, bom_ref=purl.to_string(), purl=purl))
        debian += 1
    assert bom.metadata.component is not None
    bom.metadata.component.description = f"The Python and Debian packages of the image {image.name}"
    return JsonV1Dot6(bom).output_as_string(indent=1) + "\n", python, debian


def table(images: Sequence[Image], packages: Sequence[tuple[int, int]]) -> str:
    """The images as a Markdown table, and a line about the layers that they share."""
    users = Counter(layer.digest for image in images for layer in image.layers)
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for image, (python, debian) in zip(images, packages, strict=True):
        stored, unpacked = (sum(getattr(it, size) for it in image.layers) for size in ("stored", "unpacked"))
        own = sum(layer.stored for layer in image.layers if users[layer.digest] == 1)
        sizes = " | ".join(f"{size / MB:.1f}" for size in (stored, unpacked, own))
        lines.append(f"| `{image.name}` | {sizes} | {python} | {debian} |")
    every = {layer.digest: layer.stored for image in images for layer in image.layers}
    whole = sum(every.values()) / MB
    release = images[0].file(RELEASE).decode().strip()
    return "\n".join(lines) + f"\n\nAll together: {whole:.1f} MB compressed, on Debian {release}.\n"


def main() -> int:
    """Print the table, write the SBOMs, and the page if asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layout", type=Path, nargs="?", default=ROOT / "build" / "images")
    parser.add_argument("--write", action="store_true", help="write docs/reference/images.md")
    given = parser.parse_args()
    images = images_in(given.layout)
    folder = given.layout.parent / "sbom"
    folder.mkdir(exist_ok=True)
    packages = []
    for image in images:
        text, *numbers = sbom(image)
        packages.append((numbers[0], numbers[1]))
        name = image.name.rpartition(":")[0].replace("/", "-")
        (folder / f"{name}.cdx.json").write_text(text, encoding="utf-8")
    page = table(images, packages)
    print(page, end="")
    if given.write:
        PAGE.write_text(HEAD + page + SBOMS, encoding="utf-8")
        print(f"{PAGE.relative_to(ROOT)} written")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
