"""Bodies that are compressed with gzip or deflate, in both directions."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

# Formats by their names in HTTP: the header and trailer of gzip, and those of zlib.
WINDOW_BITS: Mapping[str, int] = {"gzip": 31, "deflate": 15}
# Below, an answer is sent within one packet or two anyway.
LEAST_BYTES = 1024
# Data is compressed at most this many times; what has more of it is made up. Below the bytes that are free,
# as tensors of zeros are, it may be.
MOST_RATIO = 100
FREE_BYTES = 1024 * 1024
# The quickest: on a network of 1 Gbit/s a better level costs more time than it saves.
LEVEL = 1


def layer_of(encoding: str) -> str:
    """Return the one layer of compression that a `Content-Encoding` names; empty for none.

    ValueError: it names another, or several.
    """
    layers = [
        name for part in encoding.split(",", 2) if (name := part.strip().lower()) not in ("", "identity")
    ]
    if len(layers) > 1:
        raise ValueError(
            f"content-encoding: a body has one layer of compression, not {', '.join(layers)[:40]}"
        )
    if layers and layers[0] not in WINDOW_BITS:
        raise ValueError(f"content-encoding: {layers[0][:40]!r} is not one of {', '.join(WINDOW_BITS)}")
    return layers[0] if layers else ""


def decompress(body: bytes, layer: str, most_bytes: int) -> bytes | None:
    """Return the body without that layer; None if it would have more than `most_bytes`.

    ValueError: the body is not of it.
    """
    reader = zlib.decompressobj(WINDOW_BITS[layer])
    try:
        found = reader.decompress(body, most_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"the body is not {layer}: {error}") from error
    if len(found) > most_bytes:
        return None
    if not reader.eof:
        raise ValueError(f"the body is not {layer}: it ends too early")
    return found


def accepted(header: str) -> str:
    """Return the encoding for an answer by the request's `Accept-Encoding`; empty for none."""
    parts = (part.partition(";") for part in header.lower().split(","))
    names = {name.strip() for name, _, quality in parts if quality.replace(" ", "") not in ("q=0", "q=0.0")}
    return next((name for name in WINDOW_BITS if name in names), "")


def compress(body: bytes, encoding: str) -> bytes:
    """Return the compressed body."""
    writer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS[encoding])
    return writer.compress(body) + writer.flush()
