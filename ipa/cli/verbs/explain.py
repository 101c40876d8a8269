"""`ipa explain`: why the best plan for a rate is what it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import typer

from ipa.cli.options import planning as options
from ipa.cli.options.plugins import SOLVER
from ipa.cli.output import OUTPUT, Output, printed, printer
from ipa.cli.plans.question import EXIT_CODES, Question, best_plan, problem_of
from ipa.model.pipeline import Pipeline


def explain(
    pipeline: str = options.PIPELINE,
    *,
    rate: float = typer.Option(..., "--rate", help="requests a second to serve"),
    objective: str | None = options.OBJECTIVE,
    compat: str = options.COMPAT,
    allocation: str = options.ALLOCATION,
    solver: str | None = SOLVER,
    at: str | None = options.AT,
    deadline_s: float = typer.Option(10.0, "--deadline", help="most seconds for the explanation"),
    output: Output = OUTPUT,
    pipelines_dir: Path | None = options.PIPELINES_DIR,
    profiles_dir: Path | None = options.PROFILES_DIR,
) -> None:
    """Explain the best plan for a rate: what limits it, its alternatives, and what would change it.

    Exit code 3: no plan is feasible, and what would be; 6: out of time.
    """
    from ipa.optimize.explain import explain as explanation_of

    question = Question(pipeline, objective, compat, allocation, solver, pipelines_dir, profiles_dir, at)
    problem, plan = best_plan(question, rate, deadline_s)
    # The limits of batch sizes decide which operating points there are.
    free, _ = problem_of(question, rate, lambda found: _any_batch_size(found, objective))
    has_more = any(
        len(more.points) > len(mine.points) for more, mine in zip(free.stages, problem.stages, strict=True)
    )
    explained = explanation_of(problem, plan, deadline_s, wider={"batch_sizes": free} if has_more else {})
    if not printed(output, explained.to_json()):
        from ipa.cli.views.explain_text import print_explanation

        print_explanation(explained, printer(output))
    if plan.termination in EXIT_CODES:
        raise typer.Exit(EXIT_CODES[plan.termination])


def _any_batch_size(pipeline: Pipeline, objective: str | None) -> Pipeline:
    """The pipeline without limits on batch sizes."""
    wanted = replace(pipeline.objective(objective), max_batch_size=None)
    return replace(
        pipeline,
        bounds=replace(pipeline.bounds, batch_sizes=None),
        objectives={**pipeline.objectives, objective or pipeline.default_objective: wanted},
        stages=tuple(
            replace(stage, bounds=replace(stage.bounds, batch_sizes=None)) for stage in pipeline.stages
        ),
    )
