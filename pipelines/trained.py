"""Model files whose content is checked against the training run: loading a pickle executes it.

Training writes the digest of each file into a manifest beside the models' folder, not into it. Serving reads
a file once, compares its digest, and loads the bytes that it compared. Only the serving account and root are
trusted: files that others own or may write are refused. The manifest's folder must belong to them too, since
an account that can write there can replace both.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path

from ipa.model.errors import InputError, NotFoundError

# The write permissions of accounts other than the owner.
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH
OWNER_ONLY = 0o644


def manifest_of(folder: Path) -> Path:
    """Return the path of the manifest: the digests of the models in that folder."""
    return folder.parent / f"{folder.name}.sha256.json"


def write_models(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the models to the folder, each atomically, and then their digests."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _replace(folder / name, content)
    digests = {name: sha256(content).hexdigest() for name, content in sorted(files.items())}
    _replace(manifest_of(folder), json.dumps(digests, indent=1).encode() + b"\n")


def trained_model(path: Path, train: Callable[[Path], object], remedy: str) -> bytes:
    """Return the bytes of a model file as `trusted_model` does, after training where there is none.

    `train(folder)` trains all models of the file's folder and writes them with `write_models`. Processes that
    start together train once. Errors: those of `trusted_model`.
    """
    folder = path.parent
    if not _is_trained(path):
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_trained(path):
                train(folder)
    return trusted_model(path, remedy)


def trusted_model(path: Path, remedy: str) -> bytes:
    """Return the bytes of a model file, checked against the digest of its training.

    NotFoundError: the file or its digest is missing. InputError: the file was changed since, or others may
    write it. `remedy` is the hint of these errors: how to train it again.
    """
    digests = _manifest(manifest_of(path.parent), remedy)
    content = _own_bytes(path, remedy)
    wanted = digests.get(path.name)
    if wanted is None:
        raise NotFoundError(f"{manifest_of(path.parent)} has no digest of {path.name}", hint=remedy)
    found = sha256(content).hexdigest()
    if found != wanted:
        raise InputError(
            f"{path} was changed since it was trained, and is not loaded: "
            f"its sha256 is {found}, not {wanted}",
            hint=remedy,
        )
    return content


def _is_trained(path: Path) -> bool:
    return path.exists() and manifest_of(path.parent).exists()


def _manifest(path: Path, remedy: str) -> dict[str, str]:
    try:
        found = json.loads(_own_bytes(path, remedy))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}", hint=remedy) from error
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no digests", hint=remedy)
    return {str(name): str(digest) for name, digest in found.items()}


def _own_bytes(path: Path, remedy: str) -> bytes:
    """The content of a file that belongs to this account or root and that no other account may write."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFoundError(f"{path} does not exist", hint=remedy) from error
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", hint=remedy) from error
    about = os.fstat(handle)
    if not stat.S_ISREG(about.st_mode):
        os.close(handle)
        raise InputError(f"{path} is not a file", hint=remedy)
    with os.fdopen(handle, "rb") as stream:
        if about.st_uid not in (0, os.geteuid()) or about.st_mode & OTHERS_WRITE:
            raise InputError(
                f"{path} is not loaded: it belongs to user {about.st_uid} with mode "
                f"{stat.S_IMODE(about.st_mode):o}, so others can write it",
                hint=f"{remedy} Or, if you trust its content, give it to the account that serves, "
                f"with mode {OWNER_ONLY:o}.",
            )
        return stream.read()


def _replace(path: Path, content: bytes) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, OWNER_ONLY)
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    # The umask may leave more permissions than this.
    draft.chmod(OWNER_ONLY)
    draft.replace(path)
