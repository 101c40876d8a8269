"""A stage's container: `python -m ipa.dataplane.stage start FOLDER`, which is MLServer's own command.

The model is in the variables MLSERVER_MODEL_... of the container. Its classes may be in the current folder.
"""

from __future__ import annotations

import sys
from functools import partialmethod
from inspect import signature
from pathlib import Path

from fastapi.routing import APIRoute
from mlserver.cli import main as run_mlserver


def main() -> None:
    """Serve until a stop signal."""
    sys.path.insert(0, str(Path.cwd()))
    # MLServer 1.7 takes JSON without a content type, as some clients send it; newer FastAPI only if told.
    if "strict_content_type" in signature(APIRoute.__init__).parameters:
        APIRoute.__init__ = partialmethod(APIRoute.__init__, strict_content_type=False)  # type: ignore[assignment]
    run_mlserver()


if __name__ == "__main__":
    main()
