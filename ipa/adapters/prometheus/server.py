"""A metrics server for this machine: Prometheus if it is installed, else the built-in one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import httpx
import yaml

from ipa.adapters.processes import free_port, start, terminate, with_parent
from ipa.adapters.prometheus.queries import duration
from ipa.adapters.prometheus.scraper import Scraper
from ipa.model.errors import DeadlineError, UnavailableError

Kind = Literal["prometheus", "built-in"]

# Ready in 0.2-1 s on an idle machine; much later while model servers start.
READY_S = 30.0
# Prometheus flushes its head on SIGTERM; the data is discarded anyway.
STOP_S = 5.0


def start_metrics_server(
    targets: Sequence[str], *, scrape_interval_s: float, folder: Path, prefer: Kind = "prometheus"
) -> MetricsServer:
    """Start a server that scrapes the /metrics of the targets, and return it when it is ready.

    `folder` holds the configuration, data and log of Prometheus. Call it from a thread that outlives the
    server: when that thread ends, the kernel kills Prometheus. UnavailableError: Prometheus exited at start
    (with the last lines of its log). DeadlineError: it is not ready in time.
    """
    binary = shutil.which("prometheus") if prefer == "prometheus" else None
    if binary is None:
        return Scraper(targets, scrape_interval_s)
    server = _Prometheus(binary, targets, scrape_interval_s, folder)
    try:
        server.wait_ready()
    except BaseException:
        server.stop()
        raise
    return server


class _Prometheus:
    """Prometheus as a child process, with its targets in a file that it watches."""

    kind: Kind = "prometheus"

    def __init__(self, binary: str, targets: Sequence[str], scrape_interval_s: float, folder: Path) -> None:
        self._folder = folder.resolve()
        self._folder.mkdir(parents=True, exist_ok=True)
        # Series of an earlier run, on ports that no process listens on any more, would show as stale.
        shutil.rmtree(self._folder / "data", ignore_errors=True)
        self.set_targets(targets)
        config = self._folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._configuration(scrape_interval_s)))
        port = free_port()
        self._url = f"http://127.0.0.1:{port}"
        command = [
            binary,
            f"--config.file={config}",
            f"--storage.tsdb.path={self._folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--storage.tsdb.retention.time=1d",
            "--log.level=warn",
        ]
        with self._log_file().open("wb") as log:
            self._process = start(with_parent(command), stdout=log, stderr=log)

    @property
    def source(self) -> str:
        """The source for `PrometheusMetrics`."""
        return self._url

    def set_targets(self, targets: Sequence[str]) -> None:
        """Scrape these "host:port" from now on; Prometheus applies a change within five seconds."""
        path = self._targets_file()
        # Prometheus must never read half a file.
        part = path.with_suffix(".part")
        part.write_text(json.dumps([{"targets": list(targets)}]))
        part.replace(path)

    def stop(self) -> None:
        """End the process."""
        terminate(self._process, STOP_S)

    def wait_ready(self) -> None:
        """Wait until it answers queries."""
        deadline_s = time.monotonic() + READY_S
        with httpx.Client(trust_env=False, timeout=1.0) as client:
            while not _is_ready(client, self._url):
                code = self._process.poll()
                if code is not None:
                    raise UnavailableError(f"prometheus exited with code {code} at start: {self._log_tail()}")
                if time.monotonic() > deadline_s:
                    raise DeadlineError(f"prometheus was not ready within {READY_S:g} s: {self._log_tail()}")
                time.sleep(0.05)

    def _configuration(self, scrape_interval_s: float) -> dict[str, object]:
        interval = duration(scrape_interval_s)
        discovery = {"files": [str(self._targets_file())], "refresh_interval": "2s"}
        return {
            "global": {"scrape_interval": interval, "scrape_timeout": interval},
            "scrape_configs": [{"job_name": "ipa", "file_sd_configs": [discovery]}],
        }

    def _targets_file(self) -> Path:
        return self._folder / "targets.json"

    def _log_file(self) -> Path:
        return self._folder / "prometheus.log"

    def _log_tail(self) -> str:
        lines = self._log_file().read_text(errors="replace").splitlines()
        return " | ".join(lines[-3:])


MetricsServer = Scraper | _Prometheus


def _is_ready(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(f"{url}/-/ready").is_success
    except httpx.HTTPError:
        return False
