"""Bodies that are compressed with gzip or deflate, in both directions."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterable, Mapping

# Formats by their names in HTTP: the header and trailer of gzip, and those of zlib.
WINDOW_BITS: Mapping[str, int] = {"gzip": 31, "deflate": 15}
# Either, by its header.
ANY_WINDOW_BITS = 47
# Below, an answer is sent within one packet or two anyway.
LEAST_BYTES = 1024
# Compressing more than this takes over a millisecond, in which a thread lets other requests go on.
THREAD_BYTES = 64 * 1024
# The quickest: on a network of 1 Gbit/s a better level costs more time than it saves.
LEVEL = 1


def decompress(body: bytes, encoding: str, most_bytes: int) -> bytes | None:
    """Return the body without its `Content-Encoding`; None if it would have more than `most_bytes`.

    ValueError: another encoding, or the body is not of it.
    """
    for name in reversed([part.strip().lower() for part in encoding.split(",") if part.strip()]):
        if name == "identity":
            continue
        if name not in WINDOW_BITS:
            raise ValueError(f"content-encoding: {name[:40]!r} is not one of {', '.join(WINDOW_BITS)}")
        reader = zlib.decompressobj(ANY_WINDOW_BITS)
        try:
            found = reader.decompress(body, most_bytes + 1)
        except zlib.error as error:
            raise ValueError(f"the body is not {name}: {error}") from error
        if len(found) > most_bytes:
            return None
        if not reader.eof:
            raise ValueError(f"the body is not {name}: it ends too early")
        body = found
    return body


def accepted(header: str) -> str:
    """Return the encoding for an answer by the request's `Accept-Encoding`; empty for none."""
    names = set(_accepted(header.lower().split(",")))
    return next((name for name in WINDOW_BITS if name in names), "")


def _accepted(parts: Iterable[str]) -> Iterable[str]:
    for part in parts:
        name, _, quality = part.partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0"):
            yield name.strip()


async def compress(body: bytes, encoding: str) -> bytes:
    """Return the compressed body."""
    if len(body) > THREAD_BYTES:
        return await asyncio.to_thread(_compressed, body, encoding)
    return _compressed(body, encoding)


def _compressed(body: bytes, encoding: str) -> bytes:
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS[encoding])
    return writer.compress(body) + writer.flush()
