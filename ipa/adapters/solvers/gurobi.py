"""The terms of Gurobi's licence, read before a model needs it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from ipa.model.errors import IpaError, LicenceError
from ipa.model.findings import Finding, fail, ok, warn
from ipa.optimize.backends.gurobi_licence import own_licence

# The expiry of a licence without an end.
NEVER = 99999999
# The licence in the gurobipy package covers this many columns and as many rows.
SIZE_LIMIT = 2000
# A licence that ends this soon is reported.
ENDING = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class GurobiLicence:
    """The version, the last day of the licence (None: no end, or not known), and its size limit.

    `most_columns` is None if a model larger than the package's licence covers was solved.
    """

    version: str
    expires: date | None
    most_columns: int | None


def gurobi_licence() -> GurobiLicence:
    """Return the licence's terms. LicenceError: there is no valid licence. ImportError: no gurobipy."""
    import gurobipy as gp

    version = ".".join(map(str, gp.gurobi.version()))
    try:
        with gp.Env(empty=True) as environment:
            environment.setParam("OutputFlag", 0)
            environment.start()
            with gp.Model(env=environment) as model:
                expires = _day(model.LicenseExpiration)
            return GurobiLicence(version, expires, None if _solves(environment) else SIZE_LIMIT)
    except gp.GurobiError as error:
        raise LicenceError(f"gurobi {version}: {error}") from error


def _solves(environment: Any) -> bool:
    """True if a model just above the size limit is solved."""
    import gurobipy as gp

    with gp.Model(env=environment) as model:
        model.addVars(SIZE_LIMIT + 1, vtype=gp.GRB.BINARY)
        try:
            model.optimize()
        except gp.GurobiError as error:
            if error.errno == gp.GRB.Error.SIZE_LIMIT_EXCEEDED:
                return False
            raise
    return True


def _day(number: int) -> date | None:
    """The date of a number such as 20261231."""
    if number == NEVER or not number:
        return None
    return date(number // 10000, number // 100 % 100, number % 100)


def licence_finding(solver: str, today: date) -> Finding:
    """The finding about the size and the end of Gurobi's licence; `solver` is the one that is configured."""
    name = "licence of gurobi"
    state = fail if solver == "gurobi" else warn
    try:
        licence = gurobi_licence()
    except IpaError as error:
        return state(name, error.message, "grbgetkey KEY; or export IPA_SOLVER=exact")
    covers = "models of any size" if licence.most_columns is None else f"up to {licence.most_columns} columns"
    until = f"until {licence.expires}" if licence.expires else "without an end"
    place = own_licence()
    source = place or "licence of the package, not for production"
    seen = f"gurobi {licence.version}, {source}: {covers}, {until}"
    if licence.expires is not None and licence.expires - today < ENDING:
        return state(name, seen, "grbgetkey KEY; or export IPA_SOLVER=exact")
    if solver == "gurobi" and (licence.most_columns is not None or not place):
        return warn(
            name, f"{seen}; larger programs are refused", "export IPA_SOLVER=auto   (label setting for those)"
        )
    return ok(name, f"{seen}; auto takes {'gurobi where it covers the model' if place else 'label setting'}")
