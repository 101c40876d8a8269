"""The baseline: the read-modify-replace adapter that such services are commonly written with.

It takes the object, changes the fields in the dict and puts the whole back; on any error it takes the newest
and puts the same again. `status.state` tells it whether a change is done. It asks nobody whose the object is,
takes stages by their position, and believes that replicas are where it writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kubernetes import client

from ipa.control.ports import Rollout, RolloutPhase, StageState, WorkloadState
from ipa.model.decision import Change
from ipa.model.errors import NotFoundError, UnavailableError
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT
from ipa.targets.seldon.section import seldon_of

BATCH = "MLSERVER_MODEL_MAX_BATCH_SIZE"
ATTEMPTS = 5
TIMEOUT_S = 10.0
PLACE = ("machinelearning.seldon.io", "v1")

Json = dict[str, Any]


class PlainWorkload:
    """The Workload port, as it is written where nothing has gone wrong yet."""

    rolling = DEPLOYMENT

    def __init__(self, api: client.ApiClient) -> None:
        self._custom = client.CustomObjectsApi(api)

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The configuration that the object asks for; all of it is ready once its state says Available."""
        sdep = self._get(pipeline)
        ready = _is_available(sdep)
        components = sdep["spec"]["predictors"][0]["componentSpecs"]
        states = []
        for stage, component in zip(pipeline.served, components, strict=True):
            config = _config(stage, component)
            states.append(StageState(config, config.replicas if ready else 0))
        return WorkloadState(sdep["metadata"]["resourceVersion"], tuple(states), ready)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new resourceVersion; what was decided on is not asked for."""
        assert seldon_of(pipeline) is not None
        place = (*PLACE, seldon_of(pipeline).namespace, "seldondeployments", seldon_of(pipeline).name)
        for attempt in range(ATTEMPTS):
            try:
                sdep = self._get(pipeline)
                _set(pipeline, sdep, change.configs)
                done = self._custom.replace_namespaced_custom_object(*place, sdep, _request_timeout=TIMEOUT_S)
                return str(done["metadata"]["resourceVersion"])
            except Exception as error:
                if attempt == ATTEMPTS - 1:
                    raise UnavailableError(f"gave up: {type(error).__name__}") from error
        raise AssertionError

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """Done once its state says Available."""
        state = (self._get(pipeline).get("status") or {}).get("state")
        if state == "Available":
            return Rollout(RolloutPhase.READY)
        return Rollout(RolloutPhase.FAILED if state == "Failed" else RolloutPhase.PROGRESSING, f"{state}")

    def _get(self, pipeline: Pipeline) -> Json:
        assert seldon_of(pipeline) is not None
        place = (*PLACE, seldon_of(pipeline).namespace, "seldondeployments", seldon_of(pipeline).name)
        for attempt in range(ATTEMPTS):
            try:
                found = self._custom.get_namespaced_custom_object(*place, _request_timeout=TIMEOUT_S)
                found["spec"]["predictors"]
                return dict(found)
            except client.ApiException as error:
                if error.status == 404:
                    raise NotFoundError("it does not exist") from error
                if attempt == ATTEMPTS - 1:
                    raise UnavailableError(f"gave up: {error.status}") from error
            except Exception as error:
                if attempt == ATTEMPTS - 1:
                    raise UnavailableError(f"gave up: {type(error).__name__}") from error
        raise AssertionError


def _is_available(sdep: Json) -> bool:
    return bool((sdep.get("status") or {}).get("state") == "Available")


def _config(stage: Stage, component: Json) -> StageConfig:
    container = component["spec"]["containers"][0]
    env = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
    cpu = str(container["resources"]["requests"]["cpu"])
    cores = float(cpu.removesuffix("m")) / (1000 if cpu.endswith("m") else 1)
    variant = next(
        (one.name for one in stage.variants if _matches(seldon_of(one).env, env)), stage.variants[0].name
    )
    return StageConfig(stage.name, variant, int(env.get(BATCH) or 1), cores, component.get("replicas", 1))


def _matches(wanted: Mapping[str, str], env: Mapping[str, Any]) -> bool:
    return all(env.get(name) == value for name, value in wanted.items())


def _set(pipeline: Pipeline, sdep: Json, configs: Sequence[StageConfig]) -> None:
    components = sdep["spec"]["predictors"][0]["componentSpecs"]
    for stage, component, config in zip(pipeline.served, components, configs, strict=True):
        container = component["spec"]["containers"][0]
        component["replicas"] = config.replicas
        run = seldon_of(stage.variant(config.variant))
        assert run is not None
        container["image"] = run.image
        wanted = {**run.env, BATCH: str(config.batch_size)}
        kept = [entry for entry in container.get("env", []) if entry["name"] not in wanted]
        container["env"] = kept + [{"name": name, "value": value} for name, value in wanted.items()]
        for kind in ("requests", "limits"):
            container["resources"].setdefault(kind, {})["cpu"] = f"{round(config.cores * 1000)}m"
