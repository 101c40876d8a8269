"""The chart as an OCI artefact: `python -m tools.chart_artifact LAYOUT` adds it to an OCI layout on disk.

It is what `helm push` would make of the packaged chart, so `skopeo copy` brings it to a registry, and Helm
installs it from there as `oci://...`. Nothing is pushed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "helm" / "ipa"
# A chart's name in a registry ends with that of the chart.
NAME = "ipa-serving/charts/ipa"
REF_NAME = "org.opencontainers.image.ref.name"
INDEX, MANIFEST = (f"application/vnd.oci.image.{kind}.v1+json" for kind in ("index", "manifest"))
# https://helm.sh/docs/topics/registries/#helm-chart-manifest
CONFIG = "application/vnd.cncf.helm.config.v1+json"
CONTENT = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"


def packaged(helm: str) -> bytes:
    """The chart's archive. CalledProcessError, with Helm's words, if the chart is faulty."""
    with tempfile.TemporaryDirectory() as folder:
        command = [helm, "package", str(CHART), "--destination", folder]
        subprocess.run(command, check=True, capture_output=True)
        return next(Path(folder).glob("*.tgz")).read_bytes()


def add(layout: Path, archive: bytes) -> str:
    """Add the artefact to the layout, which is made if it is not there; return its name and tag."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    name = f"{NAME}:{chart['version']}"
    config, content = _stored(layout, json.dumps(chart).encode(), CONFIG), _stored(layout, archive, CONTENT)
    described = {"title": chart["name"], "version": chart["version"], "description": chart["description"]}
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config,
        "layers": [content],
        "annotations": {f"org.opencontainers.image.{key}": value for key, value in described.items()},
    }
    entry = _stored(layout, json.dumps(manifest).encode(), MANIFEST)
    path = layout / "index.json"
    index: dict[str, Any] = {"schemaVersion": 2, "mediaType": INDEX, "manifests": []}
    if path.is_file():
        index = json.loads(path.read_text(encoding="utf-8"))
    others = [it for it in index["manifests"] if (it.get("annotations") or {}).get(REF_NAME) != name]
    index["manifests"] = [*others, {**entry, "annotations": {REF_NAME: name}}]
    path.write_text(json.dumps(index), encoding="utf-8")
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}', encoding="utf-8")
    return name


def is_image(manifest: Mapping[str, Any]) -> bool:
    """False for the manifest of a chart."""
    return all(each["mediaType"] != CONTENT for each in manifest["layers"])


def _stored(layout: Path, content: bytes, media_type: str) -> dict[str, Any]:
    """The descriptor of the content, which is in the layout then."""
    digest = sha256(content).hexdigest()
    path = layout / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}


def main() -> None:
    """Print the artefact's address in the layout."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("layout", type=Path)
    parser.add_argument("--helm", default=str(ROOT / ".venv" / "bin" / "helm"))
    given = parser.parse_args()
    print(f"oci:{given.layout}:{add(given.layout, packaged(given.helm))}")


if __name__ == "__main__":
    main()
