"""A model server that repeats its inputs: `python stub.py PORT [--service-ms 2] [--adds 0]`.

`--adds` is added to each, so that an answer tells who gave it. With `--after` it is ready once that file
exists, while that of `--fails` exists it answers 500, and while that of `--holds` exists it does not answer.

A batch with an item of the value HANG is never answered, nor is anything after it: the server keeps its
connections and its health endpoint, and hangs as a model does that waits for a lock.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import orjson

from ipa.dataplane.environment import run
from ipa.dataplane.http import Application, Call, HttpError, Response

HANG = -1
# How often it looks whether it may answer.
HELD_S = 0.01


class Stub:
    """The one endpoint, and whether it hangs."""

    def __init__(
        self,
        service_s: float,
        adds: int = 0,
        after: Path | None = None,
        fails: Path | None = None,
        holds: Path | None = None,
    ) -> None:
        self._service_s, self._adds = service_s, adds
        self._after, self._fails, self._holds = after, fails, holds
        self._hangs = asyncio.Event()

    async def infer(self, call: Call) -> Response:
        """Repeat the inputs, or wait for ever."""
        inputs = orjson.loads(call.body)["inputs"]
        if self._hangs.is_set() or HANG in inputs[0]["data"]:
            self._hangs.set()
            await asyncio.Event().wait()
        await asyncio.sleep(self._service_s)
        while self._holds is not None and self._holds.exists():
            await asyncio.sleep(HELD_S)
        if self._fails is not None and self._fails.exists():
            raise HttpError(500, "failed", f"{self._fails} is there")
        outputs = [{**it, "data": [value + self._adds for value in it["data"]]} for it in inputs]
        return Response(orjson.dumps({"outputs": outputs}))

    async def ready(self, _call: Call) -> Response:
        """Say so, also while it hangs."""
        if self._after is not None and not self._after.exists():
            raise HttpError(503, "not_ready", f"{self._after} is not there yet")
        return Response(b"{}")

    def application(self, stage: str) -> Application:
        """The endpoints of a model of that name."""
        path = f"/v2/models/{stage}"
        return Application(
            {("POST", f"{path}/infer"): self.infer, ("GET", f"{path}/ready"): self.ready},
            start=self._nothing,
            stop=self._nothing,
        )

    async def _nothing(self) -> None:
        """Nothing to begin or end."""


def main() -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--stage", default="say")
    parser.add_argument("--service-ms", type=float, default=2.0)
    parser.add_argument("--adds", type=int, default=0)
    parser.add_argument("--after", type=Path)
    parser.add_argument("--fails", type=Path)
    parser.add_argument("--holds", type=Path)
    options = parser.parse_args()
    stub = Stub(options.service_ms / 1000, options.adds, options.after, options.fails, options.holds)
    run(stub.application(options.stage), "127.0.0.1", options.port)


if __name__ == "__main__":
    main()
