"""Checks of this machine's model servers for `ipa doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.util import find_spec

from ipa.model.findings import Finding, fail, ok, warn
from ipa.model.pipeline import Pipeline, Stage
from ipa.targets.local.section import local_of


def local_findings(pipelines: Mapping[str, Pipeline]) -> Iterator[Finding]:
    """Check that pipelines that run on this machine find their model servers."""
    local = [name for name, pipeline in pipelines.items() if all(map(_is_local, pipeline.served))]
    missing = [module for module in ("mlserver", "aiohttp", "orjson") if find_spec(module) is None]
    if not local:
        yield warn(
            "local runtime", "no pipeline says how it runs on this machine", "ipa doctor --at kubernetes"
        )
    elif missing:
        seen = f"not installed: {', '.join(missing)}"
        yield fail("local runtime", seen, "pip install 'ipa-serving[local]'")
    else:
        yield ok("local runtime", f"can start {', '.join(local)}")


def _is_local(stage: Stage) -> bool:
    return all(local_of(variant) is not None for variant in stage.variants)
