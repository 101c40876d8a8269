"""The exit codes of the command line: one stable table for all verbs."""

from __future__ import annotations

from enum import IntEnum


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


MEANINGS = {
    ExitCode.OK: "done; for `plan` and `diff` without `--detailed-exitcode`: any result; for "
    "`ci`: nothing above the threshold; for `replay`: all results are the same",
    ExitCode.ERROR: "an internal error; something is unreachable or missing; `doctor` found a failure; "
    "`simulate`, `compare` and `experiment run`: a policy or forecaster failed at a tick",
    ExitCode.CHANGED: "with `--detailed-exitcode`: there is a change; `ci`: a change above the threshold; "
    "`replay`: a decision differs",
    ExitCode.INFEASIBLE: "infeasible: no plan meets the constraints; a guard held a change back; `ci`: a "
    "guardrail is broken, or a recorded rate has no plan; `fit --strict`: there is a finding",
    ExitCode.CONFLICT: "a saved plan is stale, or a conflict; for `init` and `import`: the files "
    "exist already; for `serve` and `store restore`: another service uses the store, or it is not empty; for "
    "`replay`: a decision's pipeline or profiles were changed since; for `deploy`: not what was reviewed",
    ExitCode.DEGRADED: "degraded, or rolled back; for `probe` and `infer`: no answer, or an error; for "
    "`deploy`: a rollout or a request failed, and all was taken back",
    ExitCode.TIMEOUT: "time-out while waiting or solving",
    ExitCode.USAGE: "the command line makes no sense",
    ExitCode.INPUT: "an input file is wrong",
    ExitCode.FORBIDDEN: "forbidden",
    ExitCode.CONFIGURATION: "a setting is wrong",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}
