"""Containers of images in an OCI layout, as pods of restricted PodSecurity run them.

Each has its image's root file system, read only, an empty /tmp, process ids of its own, and the image's user
with neither capabilities nor a way to more. All share one network, that of the process that starts them: it
must be in a network namespace of its own, since a container listens to every address, as in a pod.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

from tools.image_report import REF_NAME

# MLServer imports for seconds, and longer on a busy machine.
GIVE_UP_S = 300.0
# What the image cannot know: mounts, a read-only root and no way to privileges. Then its own words follow.
START = """
set -e
mount --make-rprivate /
mount --bind "$ROOT" "$ROOT"
mount -o remount,bind,ro "$ROOT"
mount -t proc proc "$ROOT/proc"
mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev"
for each in null zero full random urandom; do
  touch "$ROOT/dev/$each"
  mount --bind "/dev/$each" "$ROOT/dev/$each"
done
mkdir "$ROOT/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$ROOT/dev/shm"
mount -o remount,ro "$ROOT/dev"
mount -t sysfs -o ro sysfs "$ROOT/sys"
mount --bind "$FOLDER" "$ROOT/tmp"
exec setpriv --no-new-privs chroot --userspec="$OWNER" --groups= "$ROOT" /usr/bin/env -i -C "$FROM" "$@"
"""


def why_not(layout: str) -> str:
    """The reason why no container can be started here; empty if one can."""
    if os.geteuid() != 0:
        return "containers are started by root"
    absent = [name for name in ("buildah", "unshare", "setpriv") if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not found; `make images` installs buildah"
    if not (Path(layout) / "index.json").is_file():
        return f"{layout} holds no OCI layout; `make images` builds it"
    interfaces = re.findall(r"^ *(\S+):", Path("/proc/self/net/dev").read_text(), re.MULTILINE)
    if interfaces != ["lo"]:
        return "this network is the machine's; `make test-images` starts the tests in one of their own"
    return ""


def loopback_up() -> None:
    """Bring the loopback interface of this network up: IFF_UP by SIOCSIFFLAGS."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", 1))


@dataclass(frozen=True)
class RunnableImage:
    """An image: where its root file system is mounted, and what its configuration says."""

    root: Path
    config: Mapping[str, Any]

    @property
    def env(self) -> dict[str, str]:
        return dict(each.split("=", 1) for each in self.config.get("Env") or ())


class Mounted:
    """The images of a layout, loaded into a storage of its own as any engine loads them. A context."""

    def __init__(self, layout: Path, storage: Path) -> None:
        self._layout, self._storage = layout, storage
        self._images: dict[str, RunnableImage] = {}
        index = json.loads((layout / "index.json").read_text())
        self._manifests = {each["annotations"][REF_NAME]: each["digest"] for each in index["manifests"]}
        self.names = tuple(sorted(self._manifests))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._buildah("rm", "--all")
        self._buildah("rmi", "--all", "--force")
        shutil.rmtree(self._storage, ignore_errors=True)

    def image(self, name: str) -> RunnableImage:
        """The image of that name; KeyError lists nothing: the layout has none."""
        if name not in self._images:
            manifest = self._blob(self._manifests[name])
            pulled = self._buildah("pull", "--quiet", f"oci:{self._layout}:{name}")
            root = self._buildah("mount", self._buildah("from", "--pull-never", pulled))
            self._images[name] = RunnableImage(Path(root), self._blob(manifest["config"]["digest"])["config"])
        return self._images[name]

    def _blob(self, digest: str) -> dict[str, Any]:
        blob: dict[str, Any] = json.loads((self._layout / "blobs" / digest.replace(":", "/")).read_text())
        return blob

    def _buildah(self, *words: str) -> str:
        place = ["--root", str(self._storage / "root"), "--runroot", str(self._storage / "run")]
        done = subprocess.run(["buildah", *place, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"buildah {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()


class Container:
    """A container of an image, started at once. A context; its output is in the file `log`.

    `command` replaces the image's entrypoint and command, `arguments` its command alone, as in a pod.
    """

    def __init__(
        self,
        image: RunnableImage,
        folder: Path,
        *,
        command: Sequence[str] = (),
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        config = image.config
        words = list(command) or list(config.get("Entrypoint") or ())
        words += list(arguments) or ([] if command else list(config.get("Cmd") or ()))
        temporary = folder / "tmp"
        temporary.mkdir(parents=True, exist_ok=True)
        temporary.chmod(0o1777)
        self.log = folder / "log"
        given = [f"{name}={value}" for name, value in {**image.env, **(env or {})}.items()]
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    "unshare",
                    "--mount",
                    "--pid",
                    "--fork",
                    "sh",
                    "-c",
                    START,
                    "sh",
                    *given,
                    *words,
                ],
                env={
                    "PATH": os.environ["PATH"],
                    "ROOT": str(image.root),
                    "FOLDER": str(temporary),
                    "OWNER": config["User"],
                    "FROM": config.get("WorkingDir") or "/",
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        # The container's process 1, and with it all of its process ids. The change of user took away
        # the signal that `unshare --kill-child` would send to it.
        pid = self._process.pid
        with suppress(OSError):
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)
        self._process.kill()
        self._process.wait()

    def output(self) -> str:
        """All that it wrote, once it has ended with 0."""
        code = self._process.wait(GIVE_UP_S)
        text = self.log.read_text(errors="replace")
        assert code == 0, f"ended with {code}: {text[-3000:]}"
        return text

    def wait_until_ready(self, url: str) -> httpx.Response:
        """The answer 200 of the address; AssertionError with the log if it does not come."""
        last = ""
        until = time.monotonic() + GIVE_UP_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                answer = httpx.get(url, timeout=5.0, trust_env=False)
                if answer.status_code == httpx.codes.OK:
                    return answer
                last = f"{answer.status_code} {answer.text[:300]}"
            except httpx.HTTPError as error:
                last = repr(error)
            time.sleep(0.1)
        raise AssertionError(f"{url} is not ready ({last}): {self.log.read_text(errors='replace')[-3000:]}")
