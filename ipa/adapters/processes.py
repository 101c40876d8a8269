"""Child processes: starting, asking, limiting and ending them.

A child leads a process group of its own, and is killed together with every process that it has started. It
inherits only the variables that `child_environment` passes: the service's environment has tokens, kubeconfigs
and cloud credentials, a model server runs third-party code, and every process of the same user can read a
process's environment.

`take_output` and `end_with_parent` are for children that run this package. Also here: a file lock between
processes, and the name of the machine's processor.
"""

from __future__ import annotations

import ctypes
import fcntl
import logging
import os
import platform
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

PASSED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP", "TZ", "LANG", "LANGUAGE"),
        # The paths of programs, libraries and their caches.
        *(
            "VIRTUAL_ENV",
            "LD_LIBRARY_PATH",
            "XDG_CACHE_HOME",
            "XDG_RUNTIME_DIR",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ),
        # The devices of this machine.
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    }
)
# Python's own settings, locales, and the thread counts of libraries.
PASSED_PREFIXES = ("PYTHON", "LC_", "OMP_", "OPENBLAS_", "MKL_", "KMP_", "NUMEXPR_", "NUMBA_", "VECLIB_")
# Model libraries start one thread per core at import, before the cores of a process are known.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# The kernel ends the child when the thread that started it ends. <linux/prctl.h>
PR_SET_PDEATHSIG = 1

Stream = int | IO[Any] | None


def child_environment(*prefixes: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables of this process that a child may inherit; `prefixes` allows more of them."""
    passed = (*PASSED_PREFIXES, *prefixes)
    return {name: value for name, value in environ.items() if name in PASSED or name.startswith(passed)}


def start(
    command: Sequence[str],
    *,
    stdin: Stream = subprocess.DEVNULL,
    stdout: Stream = subprocess.DEVNULL,
    stderr: Stream = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start the command in a process group of its own; `env` is `child_environment()` by default.

    Errors: OSError if the command cannot be run.
    """
    return subprocess.Popen(  # noqa: S603 - no shell; our own commands, their words ours or checked
        command,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        env=child_environment() if env is None else env,
        pass_fds=pass_fds,
        start_new_session=True,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and every process that it has started, unless its exit was already collected."""
    # After the wait its number may belong to another process. macOS refuses to signal a group of zombies.
    if process.returncode is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)


def run(
    command: Sequence[str], *, given: bytes | None, env: Mapping[str, str], limit_s: float
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with `given` on its input, and return its result.

    Errors: TimeoutError (killed at the limit); OSError (the command cannot be run).
    """
    stdin = subprocess.DEVNULL if given is None else subprocess.PIPE
    with start(command, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        try:
            out, err = process.communicate(given, limit_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        finally:
            kill(process)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


_given_ports: set[int] = set()
_given_lock = threading.Lock()


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that is free now and was not returned before."""
    with _given_lock:
        while True:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            if port not in _given_ports:
                _given_ports.add(port)
                return port


def take_output() -> int:
    """Return a descriptor of this child's standard output; from now on prints go to the standard error."""
    answers = os.dup(1)
    os.dup2(2, 1)
    return answers


def end_with_parent(parent: int) -> None:
    """Make the kernel kill this process when its parent, of that id, exits (Linux); exit if it has."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


LOG = logging.getLogger("ipa.lock")
PRIVATE = 0o600


class HeldError(OSError):
    """Another process holds the file; the text names it if it is known."""


class FileLock:
    """An flock on a file, which ends with the process. The content of the file only informs people."""

    def __init__(self, path: Path) -> None:
        """Acquire the lock. HeldError: another process holds it. OSError: the file cannot be locked."""
        self._handle = os.open(path, os.O_RDWR | os.O_CREAT, PRIVATE)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._handle, 200, 0).decode(errors="replace").strip()
            self.release()
            raise HeldError(f" ({holder})" if holder else "") from error
        except OSError:
            self.release()
            raise
        try:
            os.ftruncate(self._handle, 0)
            os.pwrite(self._handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        except OSError as error:
            LOG.info("the holder of the lock %s cannot be written to it: %s", path, error.strerror)

    def release(self) -> None:
        """Release the lock."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


CPUINFO = Path("/proc/cpuinfo")


def processor_name(cpuinfo: Path = CPUINFO) -> str:
    """The processor's model name from the kernel; the architecture if there is none.

    Several models share a name without a number: virtual machines say "AMD EPYC" of processors of which one
    is twice as quick as another. Family and model follow such a name: "AMD EPYC (family 26, model 2)".
    """
    try:
        first, _, _ = cpuinfo.read_text("utf-8").partition("\n\n")
    except OSError:
        first = ""
    lines = (line.partition(":") for line in first.splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}
    name = facts.get("model name", "")
    if not name:
        return platform.processor() or platform.machine()
    if any(map(str.isdigit, name)) or "model" not in facts:
        return name
    return f"{name} (family {facts.get('cpu family', 'unknown')}, model {facts['model']})"


def create_private(path: Path, content: bytes) -> None:
    """Create the file atomically, for its owner only whatever the umask is, unless it exists."""
    # mkstemp gives the file the mode 0600, and SQLite its log and shared memory that of the database.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(handle)
        try:
            os.link(name, path)
        except FileExistsError:
            return  # another process created it
        except OSError:
            # The file system does not support hard links.
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE), "wb") as stream:
                stream.write(content)
    finally:
        Path(name).unlink()
