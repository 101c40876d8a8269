"""A real file system of a few megabytes, private to one process and gone with it."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

PROGRAMS = ("unshare", "mount")


def missing() -> str:
    """The reason why this machine cannot mount one; empty where it can."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"needs {', '.join(absent)} to mount a small file system"
    tried = subprocess.run(
        ["unshare", "-m", "mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", "/mnt"],
        check=False,
        capture_output=True,
        text=True,
    )
    return f"may not mount a small file system: {tried.stderr.strip()}" if tried.returncode else ""


def on_disk(folder: Path, size: str, command: Sequence[str]) -> list[str]:
    """The command, run in a mount namespace of its own where the folder is a file system of that size."""
    script = f'mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'
    return ["unshare", "-m", "sh", "-c", script, str(folder), *command]


class SmallDisk:
    """The file system of such a process, as seen from outside."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.path = Path(f"/proc/{pid}/root{folder}")

    def fill(self) -> None:
        """Leave no room."""
        with (self.path / "filler").open("ab", buffering=0) as stream:
            try:
                while True:
                    stream.write(bytes(4096))
            except OSError:
                return

    def free(self) -> None:
        """Give the room back."""
        (self.path / "filler").unlink()
