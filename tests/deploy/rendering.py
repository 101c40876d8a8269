"""The objects that the real Helm and kustomize make of deploy/, by kind and name."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "ipa"
KUSTOMIZE = ROOT / "deploy" / "kustomize"
NAMESPACE = "models"
IMAGE = "registry.example/ipa-serving/service"

Json = dict[str, Any]
Objects = Mapping[tuple[str, str, str], Json]


def tool(name: str) -> str:
    """The program beside this Python or on the PATH; without it the test is skipped."""
    beside = Path(sys.executable).parent / name
    path = str(beside) if beside.is_file() else shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}: tools/system.sh installs it where it can")
    return path


def by_name(text: str) -> Objects:
    """The objects of a stream of YAML, by kind, namespace and name. AssertionError where two are one."""
    objects: dict[tuple[str, str, str], Json] = {}
    for each in yaml.safe_load_all(text):
        if each is None:
            continue
        key = (each["kind"], each["metadata"].get("namespace", ""), each["metadata"]["name"])
        assert key not in objects, key
        objects[key] = each
    return objects


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    """Helm's answer to `helm template ipa CHART` with these words, and an image unless they name one."""
    named = [] if any("image.repository" in word for word in words) else [f"--set=image.repository={IMAGE}"]
    command = [tool("helm"), "template", "ipa", str(CHART), "--namespace", NAMESPACE, *named, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def charted(*words: str) -> Objects:
    """The objects that the chart renders."""
    done = helm(*words)
    assert done.returncode == 0, done.stderr
    return by_name(done.stdout)


def built(folder: Path) -> Objects:
    """The objects that kustomize builds of the folder."""
    done = subprocess.run(
        [tool("kustomize"), "build", str(folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return by_name(done.stdout)


def only(objects: Objects, kind: str) -> Json:
    """The one object of that kind."""
    (match,) = (each for (of, _, _), each in objects.items() if of == kind)
    return match


def pod_of(objects: Objects) -> Json:
    spec: Json = only(objects, "Deployment")["spec"]["template"]["spec"]
    return spec


def container_of(objects: Objects) -> Json:
    """Its one container."""
    (container,) = pod_of(objects)["containers"]
    assert isinstance(container, dict)
    return container
