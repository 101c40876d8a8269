"""A model server that repeats its inputs: `python stub.py PORT [--service-ms 2]`.

A batch with an item of the value HANG is never answered, nor is anything after it: the server keeps its
connections and its health endpoint, and hangs as a model does that waits for a lock.
"""

from __future__ import annotations

import argparse
import asyncio

import orjson

from ipa.dataplane.http import Application, Call, Response, serve

HANG = -1


class Stub:
    """The one endpoint, and whether it hangs."""

    def __init__(self, service_s: float) -> None:
        self._service_s = service_s
        self._hangs = asyncio.Event()

    async def infer(self, call: Call) -> Response:
        """Repeat the inputs, or wait for ever."""
        inputs = orjson.loads(call.body)["inputs"]
        if self._hangs.is_set() or HANG in inputs[0]["data"]:
            self._hangs.set()
            await asyncio.Event().wait()
        await asyncio.sleep(self._service_s)
        return Response(orjson.dumps({"outputs": inputs}))

    async def ready(self, _call: Call) -> Response:
        """Say so, also while it hangs."""
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
    options = parser.parse_args()
    stub = Stub(options.service_ms / 1000)
    serve(stub.application(options.stage), "127.0.0.1", options.port)


if __name__ == "__main__":
    main()
