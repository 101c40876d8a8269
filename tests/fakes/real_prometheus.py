"""Prometheus as a child process, for tests and benchmarks."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import yaml

from ipa.adapters.processes import free_port, start
from ipa.adapters.prometheus.queries import duration
from tests.fakes.children import terminate, with_parent

# Ready in 0.2-1 s on an idle machine; much later while model servers start.
READY_S = 60.0
# It flushes its head on SIGTERM; the data is discarded anyway.
STOP_S = 5.0


class RealPrometheus:
    """A Prometheus of this machine that scrapes the targets, or as the scrape configurations say.

    Ready when it is made. When the thread that made it ends, the kernel kills it.
    """

    def __init__(
        self,
        targets: Sequence[str],
        scrape_interval_s: float,
        folder: Path,
        scrape_configs: Sequence[dict[str, Any]] = (),
    ) -> None:
        binary = shutil.which("prometheus")
        assert binary is not None, "prometheus is not installed"
        config, interval = folder / "prometheus.yml", duration(scrape_interval_s)
        scrape = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": list(scrape_configs)
            or [{"job_name": "ipa", "static_configs": [{"targets": list(targets)}]}],
        }
        config.write_text(yaml.safe_dump(scrape))
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        command = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.retention.time=1d",
            "--log.level=warn",
        ]
        self._log = folder / "prometheus.log"
        with self._log.open("wb") as log:
            self._process = start(with_parent(command), stdout=log, stderr=log)
        try:
            self._wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        terminate(self._process, STOP_S)

    def _wait_ready(self) -> None:
        deadline_s = time.monotonic() + READY_S
        with httpx.Client(trust_env=False, timeout=1.0) as client:
            while not self._is_ready(client):
                code = self._process.poll()
                assert code is None, f"prometheus exited with code {code}: {self._log.read_text()}"
                assert time.monotonic() < deadline_s, f"prometheus was not ready: {self._log.read_text()}"
                time.sleep(0.05)

    def _is_ready(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}/-/ready").is_success
        except httpx.HTTPError:
            return False
