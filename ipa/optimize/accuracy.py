"""The accuracy term of the objective, from the accuracies of the stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ipa.model.pipeline import AccuracyRule, Objective
from ipa.optimize.problem import PlanningProblem, StageProblem

PRODUCTS = frozenset({AccuracyRule.PRODUCT, AccuracyRule.RANK_PRODUCT})
RANKS = frozenset({AccuracyRule.RANK_SUM, AccuracyRule.RANK_PRODUCT})


def variant_terms(stage: StageProblem, objective: Objective) -> dict[str, float]:
    """The term of each variant of the stage: its accuracy, or its rank under a rank rule."""
    columns = stage.columns
    accuracies = dict(zip(columns.variants, columns.variant_accuracy, strict=True))
    if objective.accuracy_rule in RANKS:
        return ranks(accuracies, objective.rank_floor)
    return accuracies


def ranks(accuracies: Mapping[str, float], floor: float | None = None) -> dict[str, float]:
    """i/(|M| − 1) by rising accuracy, 1 for a lone variant, the lowest raised to `floor` (IPA, PAS′).

    Equal accuracies rank in the order given.
    """
    rising = sorted(accuracies, key=lambda variant: accuracies[variant])
    if len(rising) == 1:
        return {rising[0]: 1.0}
    terms = {variant: place / (len(rising) - 1) for place, variant in enumerate(rising)}
    if rising and floor is not None:
        terms[rising[0]] = max(terms[rising[0]], floor)
    return terms


def accuracy_of(problem: PlanningProblem, variants: Mapping[str, str]) -> tuple[float, float]:
    """PAS and the accuracy term ACC if each named stage runs that variant; the others are free."""
    accuracies, terms = [], []
    for stage in problem.stages:
        variant = variants.get(stage.name)
        columns = stage.columns
        if variant is None:
            accuracies.append(1.0)
            terms.append(1.0)
        else:
            accuracies.append(columns.variant_accuracy[columns.variants.index(variant)])
            terms.append(variant_terms(stage, problem.objective)[variant])
    return problem.graph.accuracy(accuracies), accuracy_term(problem, terms)


def accuracy_term(problem: PlanningProblem, terms: Sequence[float]) -> float:
    """The accuracy term ACC of the objective, from one term a stage (1 for the pipeline's own router).

    Sums and means count each stage by the share of the requests that visit it.
    """
    rule = problem.objective.accuracy_rule
    if rule in PRODUCTS:
        return problem.graph.accuracy(terms)
    shares = problem.shares
    total = sum(share * term for share, term in zip(shares, terms, strict=True))
    return total / sum(shares) if rule is AccuracyRule.MEAN else total
