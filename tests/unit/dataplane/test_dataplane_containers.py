"""Router and queue as containers: started by their environment alone, and told to stop while they work."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from ipa.adapters.processes import free_port
from ipa.dataplane.queue import QueueServer
from tests.fakes.answering import Answering
from tests.fakes.children import run_process

REQUEST = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [2.0]}]}
PATIENCE_S = 300.0


class Model(Answering):
    """A model server that answers only once it may."""

    def __init__(self) -> None:
        self.is_asked, self.may_answer = threading.Event(), threading.Event()
        super().__init__(self._infer)

    def _infer(self, path: str, body: Any) -> tuple[int, Any]:
        if body is None:
            return 404, {}
        self.is_asked.set()
        self.may_answer.wait(PATIENCE_S)
        return 200, {"outputs": body["inputs"]}

    def __exit__(self, *error: object) -> None:
        self.may_answer.set()
        super().__exit__(*error)


class Container:
    """A process of the image with nothing but its environment."""

    def __init__(self, module: str, **env: str) -> None:
        self.port = free_port()
        inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "HOME") if name in os.environ}
        port = {"PREDICTIVE_UNIT_HTTP_SERVICE_PORT": str(self.port)}
        self.process = subprocess.Popen([sys.executable, "-m", module], env={**inherited, **port, **env})

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def wait_ready(self) -> None:
        pause = threading.Event()
        for _ in range(int(PATIENCE_S / 0.05)):
            assert self.process.poll() is None, "it ended by itself"
            try:
                if httpx.get(self.url("/v2/health/ready"), timeout=300).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            pause.wait(0.05)
        raise AssertionError("it did not get ready")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@pytest.fixture
def model() -> Iterator[Model]:
    with Model() as made:
        yield made


@pytest.fixture
def containers(model: Model) -> Iterator[tuple[Container, Container]]:
    queue = Container(
        "ipa.dataplane.queue",
        IPA_PIPELINE="shop",
        IPA_STAGE="detect",
        IPA_MODEL="detector",
        IPA_MODEL_URL=model.url.replace("127.0.0.1", "localhost"),
        MLSERVER_MODEL_MAX_BATCH_SIZE="4",
        MLSERVER_MODEL_MAX_BATCH_TIME="0.01",
        IPA_ADMIN_TOKEN="t0k3n",
    )
    router = Container(
        "ipa.dataplane.router",
        IPA_PIPELINE="shop",
        IPA_STAGES=f"detect={queue.url('')}",
        IPA_DROP_AFTER_S="15",
    )
    yield router, queue
    for each in (router, queue):
        each.close()


def test_they_start_from_their_environment_and_end_what_is_in_flight_when_told_to_stop(
    model: Model, containers: tuple[Container, Container]
) -> None:
    router, queue = containers
    for each in (router, queue):
        each.wait_ready()
        assert httpx.get(each.url("/v2/health/live"), timeout=300).status_code == 200
    with_token = {"authorization": "Bearer t0k3n"}
    config = httpx.get(queue.url("/admin/config"), headers=with_token, timeout=300).json()
    assert (config["batch_size"], config["batch_timeout_s"]) == (4, 0.01)
    with ThreadPoolExecutor() as threads:
        answer = threads.submit(
            httpx.post, router.url("/v2/models/shop/infer"), json=REQUEST, timeout=PATIENCE_S
        )
        assert model.is_asked.wait(PATIENCE_S)
        # Both at once, as when the whole pipeline is removed.
        for each in (router, queue):
            each.process.send_signal(signal.SIGTERM)
        refused = threading.Event()
        for each in (router, queue):
            for _ in range(int(PATIENCE_S / 0.02)):
                try:
                    httpx.get(each.url("/v2/health/live"), timeout=300)
                except httpx.TransportError:
                    break
                refused.wait(0.02)
            else:
                raise AssertionError("it still takes new connections")
        model.may_answer.set()
        response = answer.result(PATIENCE_S)
    assert response.status_code == 200, response.text
    assert response.json()["outputs"][0]["data"] == [2.0]
    # The model is asked under its own name, not under the stage's.
    assert {path for path, body in model.requests if body} == {"/v2/models/detector/infer"}
    assert {each.process.wait(PATIENCE_S) for each in (router, queue)} <= {0, -signal.SIGTERM}


def test_a_container_without_its_settings_says_which_are_missing() -> None:
    done = run_process([sys.executable, "-m", "ipa.dataplane.queue"], env={"PATH": os.environ["PATH"]})
    assert done.returncode == 1
    assert "these variables must be set: IPA_PIPELINE, IPA_STAGE" in done.stderr


def test_replicas_are_the_pods_behind_the_service() -> None:
    answers: list[list[str] | None] = [
        ["10.0.0.2", "10.0.0.1", "10.0.0.2"],
        ["10.0.0.1", "10.0.0.2"],
        None,
        ["10.0.0.3", "fd00::1"],
    ]
    replicas: list[list[str]] = []

    async def lookup(host: str, port: int) -> list[str]:
        assert (host, port) == ("shop-detect-model-default.prod", 9000)
        addresses = answers.pop(0)
        if addresses is None:
            raise OSError("Name or service not known")
        return addresses

    async def look_four_times() -> None:
        queue = QueueServer(
            "shop", "detect", model_url="http://shop-detect-model-default.prod:9000", lookup=lookup
        )
        for _ in range(4):
            await queue.discover()
            replicas.append([*queue._queues["1"].config.replicas])

    asyncio.run(look_four_times())
    before = ["http://10.0.0.1:9000", "http://10.0.0.2:9000"]
    assert replicas == [before, before, before, ["http://10.0.0.3:9000", "http://[fd00::1]:9000"]]
