"""The same outcomes, byte for byte, from this process and from the workers of real schedulers.

The test of an engine is skipped if its extra is not installed.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest

from ipa.adapters.processes import free_port
from ipa.experiment.cells import CellStore, ExperimentCell, code_version
from ipa.experiment.engines import Engine, compute
from ipa.experiment.experiment import Experiment, PipelineArm, WorkloadArm
from ipa.experiment.simulated import cells
from ipa.model.errors import ConfigurationError

ROOT = Path(__file__).resolve().parents[3]
READY_S = 300.0
# Ray's client server forks while gRPC has threads; the child often ends at once if gRPC looks after forks.
RAY = {"RAY_USAGE_STATS_ENABLED": "0", "GRPC_ENABLE_FORK_SUPPORT": "0"}


@pytest.fixture(scope="module")
def wanted(root: Path) -> list[ExperimentCell]:
    """Two policies and two seeds for a minute."""
    experiment = Experiment(
        name="engines",
        title="Engines",
        runner="simulate",
        path=root,
        pipelines_dir=root / "pipelines",
        profiles_dir=root / "profiles",
        minutes=1.0,
        seeds=(1, 2),
        pipelines=(PipelineArm("video", "video"),),
        workloads=(WorkloadArm("bursty", like="bursty"),),
        policies=("ours", "ipa"),
    )
    return cells(experiment)[0]


def outcomes(wanted: list[ExperimentCell], folder: Path, engine: Engine) -> dict[str, bytes]:
    """The files of the store after a run."""
    compute(wanted, CellStore(folder, code_version()), engine)
    return {path.name: path.read_bytes() for path in folder.rglob("*.json")}


@pytest.fixture(scope="module")
def local(wanted: list[ExperimentCell], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    found = outcomes(wanted, tmp_path_factory.mktemp("one"), Engine(workers=1))
    assert len(found) == len(wanted)
    return found


@contextmanager
def running(folder: Path, *command: str) -> Iterator[Path]:
    """A program in a session of its own, which is ended as a whole; the file of its output."""
    log = folder / f"{command[-1].rpartition('=')[2].replace('/', '_')}.log"
    with log.open("wb") as stream:
        program = subprocess.Popen(
            command,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **RAY, "PYTHONPATH": str(ROOT)},
        )
        try:
            yield log
        finally:
            os.killpg(program.pid, signal.SIGKILL)
            program.wait()


def wait_for(log: Path, words: str) -> None:
    end = time.monotonic() + READY_S
    while not re.search(words, log.read_text()):
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.1)


@pytest.mark.skipif(not find_spec("distributed"), reason="needs the extra dask")
def test_dask_gives_the_bytes_of_one_process(
    wanted: list[ExperimentCell], local: dict[str, bytes], tmp_path: Path
) -> None:
    port = str(free_port())
    place = f"tcp://127.0.0.1:{port}"
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1"]
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", place, "--nthreads", "1"]
    with running(tmp_path, *scheduler, "--no-dashboard", "--port", port) as log:
        wait_for(log, "Scheduler at")
        with running(tmp_path, *worker, "--no-dashboard", "--nworkers", "2"):
            assert outcomes(wanted, tmp_path / "kept", Engine(f"dask://127.0.0.1:{port}")) == local


@pytest.mark.skipif(not find_spec("ray"), reason="needs the extra ray")
def test_ray_gives_the_bytes_of_one_process(
    wanted: list[ExperimentCell], local: dict[str, bytes], tmp_path: Path
) -> None:
    client, port = free_port(), free_port()
    words = ["--head", "--block", "--node-ip-address=127.0.0.1", "--include-dashboard=false", "--num-cpus=2"]
    words += ["--object-store-memory=100000000", f"--port={port}"]
    head = [str(Path(sys.executable).with_name("ray")), "start", *words]
    # Its sockets are in there, and the name of a socket is short.
    with (
        TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as home,
        running(tmp_path, *head, f"--temp-dir={home}", f"--ray-client-server-port={client}") as log,
    ):
        wait_for(log, "Ray runtime started")
        assert outcomes(wanted, tmp_path / "kept", Engine(f"ray://127.0.0.1:{client}")) == local


@pytest.mark.parametrize("name", ["dask", "ray"])
def test_an_engine_without_its_package_names_the_extra(
    wanted: list[ExperimentCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, {"dask": "distributed"}.get(name, name), None)
    with pytest.raises(ConfigurationError, match=f"the engine {name} needs a package") as caught:
        outcomes(wanted, tmp_path, Engine(f"{name}://127.0.0.1:1"))
    assert f"extra `{name}`" in caught.value.hint


def test_an_engine_that_does_not_answer_gives_the_last_line_of_its_reason(
    wanted: list[ExperimentCell], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(address: str, **_: object) -> None:
        raise ConnectionError(
            "Initialization failure:\nTraceback\n  File 1\nRuntimeError: it ended at once\n"
        )

    joblib = SimpleNamespace(register_ray=None)
    for name, module in (
        ("ray", SimpleNamespace(init=init)),
        ("ray.util", None),
        ("ray.util.joblib", joblib),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    with pytest.raises(
        ConfigurationError, match=r"no worker answers at ray://there: RuntimeError: it ended at once\n"
    ):
        outcomes(wanted, tmp_path, Engine("ray://there"))
