"""The service as its user starts it, `ipa serve`, watched over its own REST API."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

READY_WITHIN_S = 90.0
STOP_WITHIN_S = 30.0
PIPELINE = "ocr"


class Service:
    """`ipa serve` for a pipeline; leaving the block stops all that it started."""

    def __init__(
        self,
        folder: Path,
        port: int,
        arguments: Sequence[str],
        *,
        pipeline: str = PIPELINE,
        target: str = "local",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._folder = folder
        self._pipeline = pipeline
        self._base = f"http://127.0.0.1:{port}"
        self._client = httpx.Client(base_url=self._base, timeout=5.0)
        # Another service there would answer in place of the one that is started.
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                raise SystemExit(f"port {port} is in use: stop what listens there, or take another (--port)")
        folder.mkdir(parents=True, exist_ok=True)
        settings = {
            **os.environ,
            "IPA_STORE_URL": f"sqlite:///{folder / 'ipa.sqlite3'}",
            # Replicas here are ready within seconds, so the loop may run faster than on a cluster.
            "IPA_TICK_S": "5",
            "IPA_HORIZON_S": "10",
            "IPA_ROLLOUT_DEADLINE_S": "60",
            **(environment or {}),
        }
        command = [str(Path(sys.executable).with_name("ipa")), "serve", pipeline]
        command += ["--target", target, "--port", str(port), *arguments]
        if target == "local":
            command += ["--folder", str(folder / "local")]
        self._log = (folder / "service.log").open("w")
        self._process = subprocess.Popen(
            command, env=settings, stdout=self._log, stderr=subprocess.STDOUT, start_new_session=True
        )

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._client.close()
        self._log.close()

    @property
    def url(self) -> str:
        """The address of the page."""
        return self._base

    def wait_ready(self) -> None:
        """Return when the pipeline answers; RuntimeError with the end of the log where it does not."""
        give_up = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < give_up:
            if self._process.poll() is not None:
                break
            try:
                if self._client.get("/readyz").status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass  # it is not listening yet; the process itself is checked above
            time.sleep(0.25)
        tail = "\n".join((self._folder / "service.log").read_text().splitlines()[-15:])
        raise RuntimeError(f"the service did not become ready; the end of its log:\n{tail}")

    def status(self) -> dict[str, Any]:
        """The present state of the pipeline."""
        live: dict[str, Any] = self._json(f"/v1/pipelines/{self._pipeline}/status")["live"]
        return live

    def decisions(self) -> list[dict[str, Any]]:
        """Every decision, oldest first."""
        decisions: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self._json(f"/v1/pipelines/{self._pipeline}/decisions?limit=200{cursor}")
            decisions += page["decisions"]
            if page.get("next_before") is None:
                return decisions[::-1]
            cursor = f"&before={page['next_before']}"

    def counter(self, name: str) -> float:
        """The sum of a metric of the service over its labels."""
        text = self._client.get("/metrics").raise_for_status().text
        values = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in values)

    def router_url(self) -> str:
        """The address that requests are sent to."""
        return f"{self._json(f'/v1/pipelines/{self._pipeline}')['endpoint']}/v2/models/{self._pipeline}/infer"

    def _json(self, path: str) -> Any:
        return self._client.get(path).raise_for_status().json()
