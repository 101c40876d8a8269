"""requirements/<image>.cdx.json: the SBOM of each image in CycloneDX 1.6, made of the image's lock.

`--check` writes nothing and ends with 1 where a file is not what the lock says.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from uuid import UUID

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.dependency import Dependency
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ("dataplane", "service", "stage")
# A line a hash, not four.
HASH = re.compile(r'\{\s+("alg": "SHA-256"),\s+("content": "\w+")\s+\}')
FACTORY = LicenseFactory()
# What a package is needed by where no other package needs it.
PROJECT = re.compile(r"ipa-serving|-r requirements/")


@dataclass(frozen=True)
class Locked:
    """One requirement of a lock: the version, the SHA-256 of each of its files, and who needs it."""

    name: str
    version: str
    hashes: tuple[str, ...]
    needed_by: tuple[str, ...]


def locked(lock: str, environment: dict[str, str]) -> Iterator[Locked]:
    """The requirements of a lock that are installed in such an environment."""
    for entry in re.split(r"^(?=\w)", lock, flags=re.MULTILINE)[1:]:
        head, _, rest = entry.partition("\\\n")
        it = Requirement(head)
        if it.marker is None or it.marker.evaluate(environment):
            via = re.findall(r"^ +#(?: via)? +(\S.*)$", rest, re.MULTILINE)
            hashes = re.findall(r"--hash=sha256:(\w+)", rest)
            yield Locked(it.name, next(iter(it.specifier)).version, tuple(hashes), tuple(via))


def environment_of(script: str) -> dict[str, str]:
    """The values of markers in images that this script builds; platforms differ only in the machine."""
    match = re.search(r"\bpython=((\d+\.\d+)\.\d+)$", script, re.MULTILINE)
    if match is None:
        raise ValueError("tools/images.sh has no line with python=MAJOR.MINOR.PATCH")
    return {
        "python_full_version": match[1],
        "python_version": match[2],
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "sys_platform": "linux",
        "platform_system": "Linux",
    }


def licences(of: Locked) -> list[str] | None:
    """The licence that the installed package names; None where another version or none is installed."""
    try:
        fields = metadata(of.name)
    except PackageNotFoundError:
        return None
    if fields["Version"] != of.version:
        return None
    exact = fields.get("License-Expression") or fields.get("License") or ""
    if exact and "\n" not in exact:
        return [exact]
    classifiers = [each for each in fields.get_all("Classifier") or [] if each.startswith("License :: ")]
    return sorted({each.rpartition(" :: ")[2] for each in classifiers})


def component(of: Locked, before: Mapping[str, list[License]]) -> Component:
    """A package as CycloneDX has it, with the hashes of all its files: any may be installed."""
    terms = licences(of)
    purl = PackageURL("pypi", name=of.name, version=of.version)
    files = ExternalReference(
        type=ExternalReferenceType.DISTRIBUTION,
        url=XsUri(purl.to_string()),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=each) for each in of.hashes],
    )
    return Component(
        name=of.name,
        version=of.version,
        bom_ref=purl.to_string(),
        purl=purl,
        licenses=before.get(purl.to_string(), []) if terms is None else map(FACTORY.make_from_string, terms),
        external_references=[files],
    )


def sbom(image: str, before: str) -> str:
    """The SBOM of an image, the same bytes for the same lock: without a time, the lock's digest as number.

    Packages whose version this Python does not install keep the licence that they had before.
    """
    components = Bom.from_json(json.loads(before)).components if before else []
    lock = (ROOT / "requirements" / f"{image}.txt").read_text(encoding="utf-8")
    script = (ROOT / "tools" / "images.sh").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    whole = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref=project["name"],
        description=f"The Python packages of the image {image}",
        licenses=[FACTORY.make_from_string(project["license"])],
    )
    packages = list(locked(lock, environment_of(script)))
    known = {str(each.bom_ref): list(each.licenses) for each in components}
    parts = {each.name: component(each, known) for each in packages}
    needs: dict[str, list[Dependency]] = {}
    for each in packages:
        for user in each.needed_by:
            root = PROJECT.match(user)
            needs.setdefault(project["name"] if root else user, []).append(
                Dependency(parts[each.name].bom_ref)
            )
    serial = UUID(bytes=hashlib.sha256(f"{image}\n{lock}".encode()).digest()[:16], version=5)
    bom = Bom(components=parts.values(), serial_number=serial)
    bom.metadata.component = whole
    bom.metadata.timestamp = None
    bom.dependencies = [
        Dependency(each.bom_ref, needs.get(each.name, [])) for each in (whole, *parts.values())
    ]
    text = JsonV1Dot6(bom).output_as_string(indent=1)
    return HASH.sub(r"{\1, \2}", text) + "\n"


def main() -> int:
    """Write the files, or say which differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where a file differs")
    check = parser.parse_args().check
    differ = 0
    for image in IMAGES:
        path = ROOT / "requirements" / f"{image}.cdx.json"
        before = path.read_text(encoding="utf-8") if path.is_file() else ""
        text = sbom(image, before)
        if text != before:
            differ += 1
            print(f"{path.relative_to(ROOT)} {'differs; `make sbom` writes it' if check else 'written'}")
            if not check:
                path.write_text(text, encoding="utf-8")
    return int(check and differ > 0)


if __name__ == "__main__":
    raise SystemExit(main())
