"""Every error this package raises on purpose, in one tree.

    IpaError                    code, exit_code, hint, problems
    ├── UsageError              the command line asked for something that makes no sense        (64)
    ├── InputError              a file or a request body is wrong; lists every problem at once  (65)
    │   └── DomainError         a question outside what was measured                            (65)
    ├── ConfigurationError      a setting of the service is wrong                               (78)
    ├── NotFoundError           the named thing does not exist                                  (1)
    │   └── IncompleteError     only some of its parts exist                                    (1)
    ├── UnauthenticatedError    the caller is not authenticated                                 (77)
    ├── ForbiddenError          not allowed by the other side                                   (77)
    ├── InfeasibleError         no plan meets the constraints; says what would                  (3)
    │   └── UnplannedError      that plan has no configuration to apply                         (3)
    ├── ConflictError           the world moved since it was read                               (4)
    │   ├── DriftError          someone else changed it to what no plan would choose            (4)
    │   ├── InProgressError     the same request is being carried out now                       (4)
    │   ├── PreconditionError   it changed since the version that the change was made for       (4)
    │   ├── StaleError          its inputs changed since; lists which                           (4)
    │   └── StandbyError        another replica of the service leads, ask that one              (4)
    ├── RolloutError            a change did not become ready and was taken back                (5)
    ├── DeadlineError           the deadline passed                                             (6)
    ├── SolverError             a solver failed                                                 (1)
    │   └── LicenceError        a solver is installed but not licensed for this model           (1)
    ├── PluginError             a plug-in cannot be loaded, does not fit, or failed             (1)
    ├── BusyError               too much work at once                                           (1)
    ├── RecordError             the record of decisions is not as it was written                (1)
    └── UnavailableError        a metrics server, cluster or store did not answer               (1)

The exit codes are those of the command line (docs/reference/exit-codes.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """An exit code of `ipa`."""

    OK = 0
    ERROR = 1
    CHANGED = 2
    INFEASIBLE = 3
    CONFLICT = 4
    DEGRADED = 5
    TIMEOUT = 6
    USAGE = 64
    INPUT = 65
    FORBIDDEN = 77
    CONFIGURATION = 78
    INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, its place, and the remedy."""

    message: str
    path: str = ""
    line: int = 0
    column: int = 0
    pointer: str = ""

    def __str__(self) -> str:
        where = self.path
        if self.line:
            where += f":{self.line}:{self.column}"
        return f"{where}: {self.message}" if where else self.message


class IpaError(Exception):
    """The root of the tree: a message for a person, a code for a program."""

    code: ClassVar[str] = "error"
    exit_code: ClassVar[ExitCode] = ExitCode.ERROR
    status: ClassVar[int] = 500
    # Seconds after which a repeated request may succeed; 0 if waiting does not help.
    retry_after_s: ClassVar[int] = 0

    def __init__(self, message: str, *, hint: str = "", problems: Iterable[Problem] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems: tuple[Problem, ...] = tuple(problems)

    def __str__(self) -> str:
        lines = [self.message, *(f"  {problem}" for problem in self.problems)]
        if self.hint:
            lines.append(f"  {self.hint}")
        return "\n".join(lines)


class UsageError(IpaError):
    """The command line makes no sense."""

    code = "usage"
    exit_code = ExitCode.USAGE
    status = 400


class InputError(IpaError):
    """A file or a request body is wrong; `problems` lists every fault found in it."""

    code = "input"
    exit_code = ExitCode.INPUT
    status = 422


class DomainError(InputError):
    """A question outside the batch sizes and cores that were measured."""

    code = "input.domain"


class ConfigurationError(IpaError):
    """A setting of the service is wrong."""

    code = "configuration"
    exit_code = ExitCode.CONFIGURATION


class NotFoundError(IpaError):
    """The named thing does not exist."""

    code = "not_found"
    status = 404


class IncompleteError(NotFoundError):
    """Only some of the parts of the named thing exist."""


class UnauthenticatedError(IpaError):
    """The caller is not authenticated."""

    code = "unauthenticated"
    exit_code = ExitCode.FORBIDDEN
    status = 401


class ForbiddenError(IpaError):
    """The other side does not allow it."""

    code = "forbidden"
    exit_code = ExitCode.FORBIDDEN
    status = 403


class InfeasibleError(IpaError):
    """No plan meets the constraints; `hint` says what would make it feasible."""

    code = "infeasible"
    exit_code = ExitCode.INFEASIBLE
    status = 409


class UnplannedError(InfeasibleError):
    """The plan has no configuration, so there is nothing to apply."""

    code = "hold.infeasible"


# The remedy of a ConflictError about a change.
READ_AGAIN = "Read the current state and plan again."


class ConflictError(IpaError):
    """The state has changed since it was read; read it again and decide again."""

    code = "conflict"
    exit_code = ExitCode.CONFLICT
    status = 409


class DriftError(ConflictError):
    """The running workload differs from its pipeline: someone else changed it; `problems` lists where."""

    code = "conflict.drift"


class InProgressError(ConflictError):
    """The same request is being carried out now."""

    code = "conflict.in_progress"
    retry_after_s = 1


class StaleError(ConflictError):
    """The inputs changed since; `problems` lists which."""

    code = "conflict.stale"
    status = 412


class PreconditionError(ConflictError):
    """The resource changed since you read it; read it again and decide again."""

    code = "http.precondition_failed"
    status = 412


class StandbyError(ConflictError):
    """Another replica of the service leads; this one changes nothing."""

    code = "conflict.standby"


class RolloutError(IpaError):
    """A change did not become ready in time and was rolled back."""

    code = "rollout"
    exit_code = ExitCode.DEGRADED
    status = 409


class DeadlineError(IpaError):
    """The deadline passed."""

    code = "deadline"
    exit_code = ExitCode.TIMEOUT
    status = 504


class SolverError(IpaError):
    """A solver failed or gave an invalid answer."""

    code = "solver"


class LicenceError(SolverError):
    """A solver is installed but its licence does not cover this model."""

    code = "solver.licence"


class PluginError(IpaError):
    """A plug-in cannot be loaded, does not fit its protocol, raised, or gave an invalid answer."""

    code = "plugin"


class BusyError(IpaError):
    """Too much work at once; ask again a little later."""

    code = "busy"
    status = 429
    retry_after_s = 1


class RecordError(IpaError):
    """The record of decisions is not as it was written; the message names the first entry that differs."""

    code = "record"
    # Not a failure of the service: the stored record, or the anchor in the request, contradicts it.
    status = 409


class UnavailableError(IpaError):
    """A metrics server, cluster or store did not answer."""

    code = "unavailable"
    status = 503
    retry_after_s = 1
