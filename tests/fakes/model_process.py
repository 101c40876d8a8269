"""An MLServer as a process, as a container of its stage has it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ipa.adapters.processes import free_port

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def model_server(
    env: Mapping[str, str], folder: Path, model: str = "stage", metrics_port: int = 0
) -> Iterator[str]:
    """The URL of the model of an MLServer with that environment, whose log is in the folder."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    # What the operator gives it, and one process alone as in the image.
    own = {
        **{"MLSERVER_MODEL_NAME": model, "MLSERVER_HTTP_PORT": str(port), "MLSERVER_HOST": "127.0.0.1"},
        **{"MLSERVER_GRPC_PORT": str(free_port()), "MLSERVER_METRICS_PORT": str(metrics_port or free_port())},
        **{"MLSERVER_PARALLEL_WORKERS": "0", "PYTHONPATH": str(ROOT)},
    }
    program = Path(sys.executable).with_name("mlserver")
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [str(program), "start", str(folder)], env={**os.environ, **env, **own}, stdout=log, stderr=log
        )
        try:
            yield f"http://127.0.0.1:{port}/v2/models/{model}"
        finally:
            server.terminate()
            server.wait()
