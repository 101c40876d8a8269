"""Finds the user's own Gurobi licence, without starting Gurobi."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

FILE = "gurobi.lic"
# Where Gurobi gets licences from that are no file: a web licence service, a token or compute server, a cloud.
SERVICES = (
    *("GRB_WLSACCESSID", "GRB_TOKENSERVER", "GRB_COMPUTESERVER"),
    *("GRB_CSMANAGER", "GRB_CLOUDACCESSID"),
)


def own_licence(environment: Mapping[str, str] | None = None, root: Path = Path("/")) -> str:
    """The place of a licence other than the one in the gurobipy package; empty if there is none.

    The package's licence is for trials, and never for production. `environment` (None: this process's) and
    `root` are searched in Gurobi's order: the file that GRB_LICENSE_FILE names, a service, the home folder,
    and the folders of an installation.
    """
    variables = os.environ if environment is None else environment
    for name in SERVICES:
        if variables.get(name):
            return name
    named = variables.get("GRB_LICENSE_FILE", "").split(os.pathsep)
    homes = (variables.get("HOME"), variables.get("USERPROFILE"), variables.get("GUROBI_HOME"))
    usual = [Path(home) / FILE for home in homes if home]
    usual += [root / "opt" / "gurobi" / FILE, *sorted((root / "opt").glob(f"gurobi*/*/{FILE}"))]
    usual.append(root / "Library" / "gurobi" / FILE)
    candidates = [Path(name) for name in named if name] + usual
    return next((str(path) for path in candidates if path.is_file()), "")
