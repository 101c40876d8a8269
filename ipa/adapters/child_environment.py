"""The environment of processes that the service starts: what they need, and none of its secrets.

The service's own environment has tokens, kubeconfigs and cloud credentials. A model server runs other
people's code, and each process shows its environment to everything that runs as its user.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

PASSED = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TMPDIR", "TEMP", "TMP", "TZ", "LANG", "LANGUAGE"),
        # Where programs and libraries are found, and keep what they unpack.
        *(
            "VIRTUAL_ENV",
            "LD_LIBRARY_PATH",
            "XDG_CACHE_HOME",
            "XDG_RUNTIME_DIR",
            "SSL_CERT_FILE",
            "SSL_CERT_DIR",
        ),
        # Of the devices of this machine.
        *("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"),
    }
)
# Python's own settings, locales, and how many threads libraries start.
PASSED_PREFIXES = ("PYTHON", "LC_", "OMP_", "OPENBLAS_", "MKL_", "KMP_", "NUMEXPR_", "NUMBA_", "VECLIB_")
# Model libraries start one thread a core at import, before the cores of a process are known.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


def child_environment(*prefixes: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables of this process that a child may have; `prefixes` names more of them."""
    passed = (*PASSED_PREFIXES, *prefixes)
    return {name: value for name, value in environ.items() if name in PASSED or name.startswith(passed)}
