"""A stage's server on Seldon, measured at its address by the calls of the orchestrator."""

from __future__ import annotations

from functools import partial
from urllib.parse import urlsplit

from ipa.model.masking import without_user
from ipa.model.pipeline import Pipeline, Stage, StageKind
from ipa.targets.probing import check_url
from ipa.targets.running import RunningBench, call_as_is, infer_v2, machine
from ipa.targets.seldon.locate import container_name, target_of
from ipa.targets.seldon.section import WireProtocol

# The path of a call in Seldon's own protocol, by the type of the graph node.
PATHS = {
    StageKind.MODEL: "/predict",
    StageKind.TRANSFORMER: "/transform-input",
    StageKind.OUTPUT_TRANSFORMER: "/transform-output",
    StageKind.ROUTER: "/route",
    StageKind.COMBINER: "/aggregate",
}
# The last part of it in V2, where it is not "infer".
V2_CALLS = {StageKind.ROUTER: "route", StageKind.COMBINER: "aggregate"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def running_bench(pipeline: Pipeline, stage: Stage, address: str) -> RunningBench:
    """The bench of the stage's server at that base URL.

    The items of a workload are V2 inputs where the stage takes those; else each is the JSON body of a call,
    and its answer is given to `accuracy` as it is.
    """
    url = check_url(address)
    path = PATHS[stage.kind]
    if target_of(pipeline).protocol is WireProtocol.V2:
        path = f"/v2/models/{container_name(stage)}/{V2_CALLS.get(stage.kind, 'infer')}"
    call = infer_v2 if path.endswith("/infer") else call_as_is
    hardware = machine() if url.hostname in LOOPBACK else f"that of {urlsplit(without_user(address)).netloc}"
    return RunningBench(hardware, partial(call, url=f"{address.rstrip('/')}{path}"))
