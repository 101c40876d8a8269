"""Plans in files, with digests of their inputs: a plan is applied only if none has changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import ipa
from ipa.clients.base import PipelineClient
from ipa.clients.http import HttpClient, pipeline_path
from ipa.control.canonical import canonical_json, digest
from ipa.files.document import Document
from ipa.files.faults import check
from ipa.files.kinds.plan import SavedPlanFile
from ipa.files.pipelines import FILE_NAME
from ipa.files.reading import read_json
from ipa.model.errors import ConflictError, InputError, NotFoundError, Problem
from ipa.model.plan import StageConfig
from ipa.settings import Settings

KIND = "SavedPlan"
# Digits of a digest in a message: enough to tell two files apart.
DIGITS = 12


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan with its inputs.

    `revision` is that of the workload at `at` (empty: none, or unknown), `inputs` has the sha256 of each file
    of the pipeline, or of each resource of the service that planned. `plan` is as it was printed.
    """

    pipeline: str
    at: str
    revision: str
    rate_rps: float
    solver: str
    version: str
    inputs: Mapping[str, str]
    plan: Mapping[str, Any]
    configs: tuple[StageConfig, ...]


def inputs_of(service: PipelineClient, settings: Settings, pipeline: str) -> dict[str, str]:
    """The digests of the inputs of plans: the files of the pipeline, or the resources of the service."""
    if isinstance(service, HttpClient):
        found = {
            pipeline_path(pipeline): service.definition(pipeline),
            pipeline_path(pipeline, "profiles"): service.profiles(pipeline),
        }
        return {f"/v1/{path}": digest(canonical_json(values)) for path, values in found.items()}
    files = {f"pipelines/{pipeline}/{FILE_NAME}": settings.pipelines_dir / pipeline / FILE_NAME}
    home = settings.profiles_dir / pipeline
    files |= {f"profiles/{pipeline}/{file.name}": file for file in sorted(home.glob("*.yaml"))}
    return {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}


def write_saved(file: Path, saved: SavedPlan) -> None:
    """Write the file, the same bytes for the same plan; InputError if it cannot be written."""
    body = {"apiVersion": "ipa/v1", "kind": KIND, **asdict(saved)}
    text = json.dumps({**body, "digest": f"sha256:{_digest(body)}"}, indent=1, ensure_ascii=False)
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error


def read_saved(file: Path) -> SavedPlan:
    """The plan in the file. InputError: it is no saved plan, or was changed."""
    hint = "Save one with `ipa plan PIPELINE --rate R --at WHERE --out FILE`."
    try:
        body = read_json(file)
    except (InputError, NotFoundError) as error:
        raise InputError(error.message, hint=hint) from error
    if not isinstance(body, dict) or body.get("kind") != KIND:
        raise InputError(f"{file} is not a saved plan", hint=hint)
    given = body.pop("digest", None)
    if given != f"sha256:{_digest(body)}":
        raise InputError(f"{file} was changed since it was saved: its digest does not hold", hint=hint)
    document = Document(str(file), body, shows_pointers=True)
    found = check(document, SavedPlanFile)
    document.raise_problems()
    assert found is not None, "without a file there are problems"
    return SavedPlan(**{**found.given(), "plan": body["plan"]})


def check_fresh(saved: SavedPlan, revision: str, inputs: Mapping[str, str], file: Path) -> None:
    """ConflictError names everything that changed since the plan was made."""
    moved = [Problem(words) for words in _moved(saved, revision, inputs)]
    if moved:
        raise ConflictError(
            f"{file} is stale: its inputs have changed",
            problems=moved,
            hint=f"Plan again with `ipa plan {saved.pipeline} --rate {saved.rate_rps:g} "
            f"--at {saved.at} --out {file}`.",
        )


def _moved(saved: SavedPlan, revision: str, inputs: Mapping[str, str]) -> Iterator[str]:
    for name in sorted({*saved.inputs, *inputs}):
        before, after = saved.inputs.get(name), inputs.get(name)
        if before is None:
            yield f"{name} is new"
        elif after is None:
            yield f"{name} is gone"
        elif before != after:
            yield f"{name} was changed: sha256 {before[:DIGITS]} then, {after[:DIGITS]} now"
    if revision != saved.revision:
        then, now = saved.revision or "nothing", revision or "nothing"
        yield f"what runs was changed: revision {then} then, {now} now"
    if saved.version != ipa.__version__:
        yield f"it was made by ipa {saved.version}, this is {ipa.__version__}"


def _digest(body: Mapping[str, Any]) -> str:
    return digest(canonical_json(body))
