"""Measures the variants of `signals` in Seldon's own microservice."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from ipa.adapters.processes import ONE_THREAD
from ipa.cli.main import run
from ipa.files import load_pipeline, load_profiles
from ipa.files.profiles import dump_profile
from ipa.model.pipeline import Pipeline, Stage, Variant
from ipa.model.profile import StageProfile
from ipa.targets.seldon.section import seldon_of
from tests.fakes.kube.node import CLASS
from tests.fakes.seldon_core import ENVIRONMENT, microservices


def measured(python: str, pipeline: Pipeline, stage: Stage, variant: Variant) -> StageProfile:
    """The profile of one variant, whose microservice is started for it and has one core."""
    section = seldon_of(variant)
    assert section is not None
    # As a pod of one core has it; its gRPC server idles beside it, which tells that it is ready.
    env = {**ONE_THREAD, **section.env, "GRPC_WORKERS": "1"}
    with (
        TemporaryDirectory() as folder,
        microservices(python, Path(folder), {env[CLASS]: "MODEL"}, env) as (served,),
    ):
        words = ["profile", pipeline.name, "--stage", stage.name, "--variants", variant.name]
        words += ["--cores", "1", "--url", served.rest, "--folder", f"{folder}/profiles/{pipeline.name}"]
        if run(words):
            raise RuntimeError(f"variant {variant.name} of stage {stage.name} was not measured")
        return load_profiles(Path(folder) / "profiles", pipeline.name)[stage.name]


def main() -> int:
    """Measure one variant after the other, and write a profile of each stage."""
    parser = argparse.ArgumentParser(prog="python -m experiments.demo_seldon.measure", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("profiles/signals"))
    folder = parser.parse_args().folder
    pipeline = load_pipeline(Path("pipelines/signals/pipeline.yaml"))
    for stage in pipeline.stages:
        found = [measured(ENVIRONMENT.python(), pipeline, stage, variant) for variant in stage.variants]
        whole = replace(found[-1], variants=tuple(one for each in found for one in each.variants))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{stage.name}.yaml").write_text(dump_profile(whole))
    return 0


if __name__ == "__main__":
    sys.exit(main())
