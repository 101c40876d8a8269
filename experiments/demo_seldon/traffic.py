"""The sender of `experiments.live`, in a cluster: it reaches Services by their names."""

from __future__ import annotations

import tests.fakes.kube.in_cluster  # noqa: F401  (names of Services lead to pods)
from experiments.live.traffic import main

if __name__ == "__main__":
    main()
