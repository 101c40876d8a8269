"""Variants that bring their own server: started by a command, given up when they do not start."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import psutil
import pytest

from ipa.control.ports import RolloutPhase
from ipa.model.decision import Change
from ipa.model.errors import ConflictError, NotFoundError, RolloutError
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant
from ipa.model.plan import StageConfig
from ipa.targets.local.section import LocalPlace, LocalRun, local_of
from ipa.targets.local.workload import LocalWorkload
from tests.e2e.test_local_digits import carry_out
from tests.fakes.postgres import other_children
from tests.fakes.waiting import until

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]

# A V2 server of the standard library: outputs are the inputs.
ECHO = """
import http.server, json, os, sys

class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, value):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"ready": True})

    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        cores = {"name": "cores", "datatype": "BYTES", "shape": [1], "data": [os.environ["IPA_CORES"]]}
        self.answer({"outputs": [*request["inputs"], cores]})

    def log_message(self, *_):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Echo).serve_forever()
"""
GIVE_UP_S = 300.0


@pytest.fixture
def pipeline() -> Pipeline:
    fine = LocalRun("", command=("{python}", "-c", ECHO, "{port}"))
    broken = LocalRun("", command=("{python}", "-c", "raise SystemExit('no model here')"))
    variants = (Variant("fine", targets={"local": fine}), Variant("broken", targets={"local": broken}))
    return Pipeline(
        "echo",
        (Stage("say", variants, batch_timeout_s=0),),
        Sla(1.0),
        {"default": Objective()},
        drop_after_s=9,
    )


@pytest.fixture
def workload(tmp_path: Path) -> Iterator[LocalWorkload]:
    running = LocalWorkload(tmp_path)
    yield running
    running.stop()


def say(workload: LocalWorkload) -> httpx.Response:
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [7]}
    url = f"{workload.runner('echo').endpoint}/v2/models/echo/infer"
    return httpx.post(url, json={"inputs": [tensor]}, trust_env=False, timeout=GIVE_UP_S)


def config(variant: str, cores: float = 0.5) -> StageConfig:
    return StageConfig("say", variant, 1, cores, 1)


def test_a_variant_that_does_not_start_fails_its_change_while_the_old_one_serves(
    workload: LocalWorkload, pipeline: Pipeline
) -> None:
    with pytest.raises(NotFoundError):
        workload.read(pipeline)
    workload.start(pipeline, (config("fine"),))
    assert [tensor["data"] for tensor in say(workload).json()["outputs"]] == [[7], ["0.5"]]
    revision = workload.read(pipeline).revision
    bad = Change("bad", "echo", revision, (), (config("broken"),), GIVE_UP_S)
    assert carry_out(workload, pipeline, bad) is RolloutPhase.FAILED
    assert "no model here" in workload.rollout(pipeline, bad).detail
    assert not workload.read(pipeline).settled
    assert say(workload).status_code == 200
    revision = workload.read(pipeline).revision
    back = Change("back", "echo", revision, (), (config("fine"),), GIVE_UP_S, is_rollback=True)
    assert carry_out(workload, pipeline, back) is RolloutPhase.READY
    assert workload.rollout(pipeline, bad).phase is RolloutPhase.REPLACED


def test_a_pipeline_that_does_not_start_leaves_nothing_behind(
    workload: LocalWorkload, pipeline: Pipeline
) -> None:
    with pytest.raises(RolloutError, match="no model here"):
        workload.start(pipeline, (config("broken"),))
    assert other_children() == []


def test_router_queue_and_nursery_are_replaced_when_they_die(
    workload: LocalWorkload, pipeline: Pipeline
) -> None:
    workload.start(pipeline, (config("fine"),))
    (nursery,) = other_children()
    servers = {child.pid for child in nursery.children()} - set(workload.runner("echo").pids("say"))
    for pid in sorted(servers):
        psutil.Process(pid).send_signal(signal.SIGKILL)
    until(lambda: workload.runner("echo").restarts == 2 and workload.read(pipeline).settled)
    until(lambda: _is_answered(workload))
    (before,) = workload.runner("echo").pids("say")
    nursery.send_signal(signal.SIGKILL)
    until(lambda: workload.runner("echo").pids("say") not in ([before], []))
    until(lambda: _is_answered(workload))


def test_a_changed_file_is_adopted_unless_it_takes_another_start(
    workload: LocalWorkload, pipeline: Pipeline
) -> None:
    workload.start(pipeline, (config("fine"),))
    runner = workload.runner("echo")
    fronts, pids = runner.front_pids(), runner.pids("say")
    hasty = replace(pipeline, sla=Sla(1e-6), drop_after_s=1e-6)
    workload.check(hasty)
    workload.adopt(hasty)
    until(lambda: say(workload).status_code in {503, 504})
    workload.adopt(pipeline)
    until(lambda: _is_answered(workload))
    assert (runner.front_pids(), runner.pids("say")) == (fronts, pids), "nothing was restarted"

    (stage,) = pipeline.stages
    fine, broken = stage.variants
    local = local_of(fine)
    assert local is not None
    other = replace(fine, targets={"local": replace(local, env={"WORD": "anew"})})
    for wrong in (
        replace(stage, name="tell"),
        replace(stage, variants=(broken,)),
        replace(stage, variants=(other, broken)),
        replace(stage, resident="all"),
    ):
        with pytest.raises(ConflictError, match="how they are started here would change"):
            workload.check(replace(pipeline, stages=(wrong,)))
    with pytest.raises(ConflictError, match="the port of the router"):
        workload.check(replace(pipeline, targets={"local": LocalPlace(9000)}))


def _is_answered(workload: LocalWorkload) -> bool:
    try:
        return say(workload).status_code == 200
    except httpx.HTTPError:
        return False


OWNER = """
import sys
from pathlib import Path
from ipa.targets.local.section import LocalRun
from ipa.targets.local.workload import LocalWorkload
from ipa.model.pipeline import *
from ipa.model.plan import StageConfig
run = LocalRun("", command=("{python}", "-c", sys.argv[2], "{port}"))
stage = Stage("say", (Variant("fine", {"local": run}),))
workload = LocalWorkload(Path(sys.argv[1]))
workload.start(Pipeline("echo", (stage,), Sla(1.0), {}), (StageConfig("say", "fine", 1, 1, 1),))
print("ready", flush=True)
sys.stdin.read()
"""


def test_no_process_outlives_a_killed_owner(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), ECHO], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"ready\n"
        orphans = psutil.Process(owner.pid).children(recursive=True)
        assert len(orphans) == 4  # forkserver, router, queue, model server
        owner.kill()
    _, alive = psutil.wait_procs(orphans, timeout=GIVE_UP_S)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
