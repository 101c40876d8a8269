"""The checks of `ipa doctor` for the settings: of this machine, the store, authentication and the metrics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

from ipa.adapters.store.admin import MAKE_KEY, key_finding, store_findings
from ipa.bootstrap.identity import check_listening
from ipa.bootstrap.leader_election import elects
from ipa.bootstrap.targets import find_target
from ipa.control.loop.scheduler import SystemClock
from ipa.model.errors import IpaError
from ipa.model.findings import DoctorCheck, Finding, failed, ok
from ipa.model.pipeline import Pipeline
from ipa.service import doctor
from ipa.settings import Settings, words

AUTHENTICATION = "authentication"
# Checks that compute take turns.
CPU = "cpu"


def settings_checks(settings: Settings, pipelines: Mapping[str, Pipeline]) -> list[DoctorCheck]:
    """Checks of settings, files, profiles, solvers, store and authentication."""
    profiles = partial(doctor.profile_findings, settings, today=datetime.now(UTC).date())
    return [
        DoctorCheck("settings", lambda: [ok("settings", "every IPA_ variable is known and valid")]),
        DoctorCheck("files", lambda: doctor.files_findings(settings), turn=CPU),
        *(
            DoctorCheck(f"profiles of {it.name}", partial(profiles, it), turn=CPU)
            for it in pipelines.values()
        ),
        DoctorCheck("solvers", lambda: doctor.solver_findings(settings), turn=CPU),
        DoctorCheck("store", lambda: store_findings(settings)),
        DoctorCheck(AUTHENTICATION, lambda: identity_findings(settings), after="store"),
    ]


def target_checks(
    settings: Settings, pipelines: Mapping[str, Pipeline], namespaces: Sequence[str]
) -> list[DoctorCheck]:
    """Checks of the target, and of the GitOps tool's folder if GitOps carries out changes."""
    checks = find_target(settings).doctor_checks(settings, pipelines, namespaces, elects=elects(settings))
    if settings.actuation == "gitops":
        checks.append(DoctorCheck("gitops", lambda: doctor.gitops_findings(settings)))
    return checks


def identity_findings(settings: Settings) -> Iterator[Finding]:
    """Check the address that the service listens on, and each method of authentication."""
    try:
        check_listening(settings)
    except IpaError as error:
        yield failed(AUTHENTICATION, error, f"export IPA_AUTH=keys && {MAKE_KEY}")
        return
    wanted = words(settings.auth)
    if not wanted:
        message = f"callers are not authenticated; only this machine can connect ({settings.host})"
        yield ok(AUTHENTICATION, message)
    if "keys" in wanted:
        yield key_finding(settings, f"{AUTHENTICATION}: keys", SystemClock().now())
