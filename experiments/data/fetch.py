"""Fetches a source: from a folder if it lies there, else by HTTP; nothing but the pinned bytes is kept."""

from __future__ import annotations

import hashlib
from pathlib import Path

import httpx

from experiments.data.sources import Source
from ipa.model.errors import InputError, UnavailableError

# For the connection and between two reads, not for the whole file.
TIMEOUT_S = 30.0


def fetch(source: Source, folder: Path, client: httpx.Client) -> Path:
    """The path of the source's file in the folder, fetched if it is not there.

    Errors: InputError (other bytes than the pinned ones), UnavailableError (no network, cut off, refused).
    """
    path = folder / source.name
    if path.is_file():
        _check(source, path, "Delete it, or put the right file there.")
        return path
    folder.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    try:
        with client.stream("GET", source.url, follow_redirects=True) as answer, part.open("wb") as stream:
            answer.raise_for_status()
            for chunk in answer.iter_bytes():
                stream.write(chunk)
                if stream.tell() > source.size_bytes:
                    break
        _check(source, part, "The file at that address is another one; nothing was kept.")
        part.replace(path)
    except httpx.HTTPError as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnavailableError(
            f"{source.url} cannot be fetched: {words}", hint=by_hand(source, folder)
        ) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def by_hand(source: Source, folder: Path) -> str:
    """The words that say what to put where if there is no network."""
    return (
        f"Fetch {source.url} elsewhere ({source.size_bytes} bytes, SHA-256 {source.sha256}), put it at "
        f"{folder / source.name}, and give the same command again."
    )


def _check(source: Source, path: Path, hint: str) -> None:
    digest = sha256(path)
    if digest != source.sha256:
        size_bytes = path.stat().st_size
        raise InputError(
            f"{source.name} from {source.url} has {size_bytes} bytes with SHA-256 {digest}, not "
            f"{source.size_bytes} with {source.sha256}",
            hint=hint,
        )


def sha256(path: Path) -> str:
    """The SHA-256 digest of the file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
