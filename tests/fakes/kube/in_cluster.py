"""Imported by a process, it puts it into the cluster: names of Services lead to their pods."""

import sys

from tests.fakes.kube import names

# It would look names up and connect without Python; the image of router and queues does not have it either.
sys.modules["uvloop"] = None  # type: ignore[assignment]
names.install()
