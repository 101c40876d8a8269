"""A file that one process of a machine holds at a time."""

from __future__ import annotations

import fcntl
import logging
import os
import socket
from pathlib import Path

LOG = logging.getLogger("ipa.lock")
PRIVATE = 0o600


class HeldError(OSError):
    """Another process holds the file; the text says which, if it is known."""


class FileLock:
    """An flock on a file, which ends with the process. The content of the file only informs people."""

    def __init__(self, path: Path) -> None:
        """Acquire the lock. HeldError: another process holds it. OSError: no file, or no locks, there."""
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
