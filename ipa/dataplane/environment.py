"""Settings of router and queue: by flags, or by the environment where they run as containers."""

from __future__ import annotations

import argparse
import os
from typing import Any

# What Seldon's operator tells a container of the port that its service leads to.
OPERATORS_PORT = ("PREDICTIVE_UNIT_HTTP_SERVICE_PORT", "PREDICTIVE_UNIT_SERVICE_PORT")
# Well below the 20 s that the operator gives a pod to end, 10 s of which it sleeps first.
DRAIN_S = 5.0


def add(parser: argparse.ArgumentParser, flag: str, *names: str, **given: Any) -> None:
    """Add a flag whose default is the first of those environment variables that is set.

    It is required where it has no default at all.
    """
    found = next((os.environ[name] for name in names if os.environ.get(name)), None)
    default = given.pop("default", None)
    is_optional = given.pop("optional", False)
    words = f"{given.pop('help', '')} (env {', '.join(names)})".strip()
    parser.add_argument(
        flag,
        default=default if found is None else found,
        required=found is None and default is None and not is_optional,
        help=words,
        **given,
    )


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add where to listen, and how long to finish what is in flight when told to stop."""
    add(parser, "--host", "IPA_HOST", default="127.0.0.1")
    add(parser, "--port", "IPA_PORT", *OPERATORS_PORT, type=int)
    parser.add_argument("--fd", type=int, help="an inherited socket that listens at that port already")
    add(parser, "--drain-s", "IPA_DRAIN_S", type=float, default=DRAIN_S, help="to finish what is in flight")


class Words(argparse.Action):
    """Collects values, of one flag given several times or of one text with spaces between them.

    What the flag says counts instead of what the environment does.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Add one more."""
        present = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*(present if isinstance(present, list) else []), values])


def words(given: Any) -> list[str]:
    """The values of a flag with the action Words."""
    return given if isinstance(given, list) else (given or "").split()
