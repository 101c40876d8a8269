"""A stage's container: `python -m ipa.dataplane.stage`, MLServer with a model for each of several variants.

IPA_MODELS says them: by the name of each model its own variables of MLServer, as {"detect--small":
{"MLSERVER_MODEL_IMPLEMENTATION": "shop.Detect", "MLSERVER_MODEL_EXTRA": "{...}"}}. Variables of the container
hold for all of them. All are loaded before the server listens, so that a pod that is ready has every variant;
one that cannot be loaded ends the process. `start FOLDER` is MLServer's own command, for one model.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from functools import partialmethod
from inspect import signature
from pathlib import Path

from fastapi.routing import APIRoute
from mlserver import MLServer, ModelSettings, Settings
from mlserver.cli import main as run_mlserver
from mlserver.settings import ModelParameters

from ipa.dataplane.environment import OPERATORS_PORT
from ipa.model.errors import ConfigurationError

MODELS, HTTP_PORT = "IPA_MODELS", "MLSERVER_HTTP_PORT"


def models_of(environment: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The variables of each model by its name, as IPA_MODELS says. ConfigurationError: it does not."""
    try:
        found = json.loads(environment.get(MODELS, ""))
        is_sound = bool(found) and all(
            isinstance(value, str) for own in found.values() for pair in own.items() for value in pair
        )
    except (ValueError, AttributeError):
        is_sound = False
    if not is_sound:
        raise ConfigurationError(
            f"{MODELS} must be a JSON object of the variables of each model, by their names",
            hint="`ipa render` writes it for stages with `resident` variants.",
        )
    return {str(name): dict(own) for name, own in found.items()}


def settings_of(name: str, own: Mapping[str, str]) -> ModelSettings:
    """The settings of a model, from its own variables over those of the process."""
    before = dict(os.environ)
    os.environ.update(own)
    try:
        # MLServer reads settings of models from the environment alone, each from the whole of it.
        return ModelSettings(name=name, parameters=ModelParameters())
    finally:
        os.environ.clear()
        os.environ.update(before)


async def _serve() -> None:
    port = next((os.environ[name] for name in (HTTP_PORT, *OPERATORS_PORT) if os.environ.get(name)), None)
    models = [settings_of(name, own) for name, own in models_of(os.environ).items()]
    server = MLServer(Settings(**({} if port is None else {"http_port": int(port)})))
    for model in models:
        # `start` loads beside listening, and is ready meanwhile.
        await server._model_registry.load(model)
    await server.start([])


def main() -> None:
    """Serve until a stop signal."""
    # As `mlserver start` in the container's folder does.
    sys.path.insert(0, str(Path.cwd()))
    # MLServer 1.7 takes JSON without a content type, as some clients send it; newer FastAPI only if told.
    if "strict_content_type" in signature(APIRoute.__init__).parameters:
        APIRoute.__init__ = partialmethod(APIRoute.__init__, strict_content_type=False)  # type: ignore[assignment]
    if sys.argv[1:]:
        run_mlserver()
    else:
        asyncio.run(_serve())


if __name__ == "__main__":
    main()
