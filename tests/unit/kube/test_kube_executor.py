"""The orchestrator of the node: what it does with its clients' connections, as Go's server does."""

from __future__ import annotations

import asyncio

from aiohttp.test_utils import TestClient, TestServer

from ipa.adapters.processes import free_port
from tests.fakes.kube.executor import Executor, app_of


def test_a_client_is_told_that_its_connection_ends_with_the_orchestrator() -> None:
    """Else it sends its next request where nobody reads any more, and loses it."""

    async def connections() -> list[str | None]:
        node = {"name": "stage", "endpoint": {"service_host": "127.0.0.1", "httpPort": free_port()}}
        app = app_of(Executor({"name": "default", "graph": node}, "digits"))
        async with TestClient(TestServer(app)) as client:
            found = []
            for asks_to_end in (False, True):
                if asks_to_end:
                    await app.shutdown()
                async with client.post("/v2/models/infer", data=b"{}") as answer:
                    # Nobody serves the stage.
                    assert answer.status == 500
                    found.append(answer.headers.get("Connection"))
            return found

    assert asyncio.run(connections()) == [None, "close"]
