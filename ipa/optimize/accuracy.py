"""How the accuracies of the stages make the accuracy term of the objective."""

from __future__ import annotations

from collections.abc import Mapping

from ipa.model.pipeline import AccuracyRule, Objective
from ipa.optimize.problem import StageProblem

PRODUCTS = frozenset({AccuracyRule.PRODUCT, AccuracyRule.RANK_PRODUCT})
RANKS = frozenset({AccuracyRule.RANK_SUM, AccuracyRule.RANK_PRODUCT})


def variant_terms(stage: StageProblem, objective: Objective) -> dict[str, float]:
    """What each variant of the stage counts for: its accuracy, or its rank under a rank rule."""
    accuracies = {point.variant: point.accuracy for point in stage.points}
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


def accuracy_of_chain(terms: list[float], rule: AccuracyRule) -> float:
    """The accuracy term ACC of the objective, from one term a stage."""
    if rule in PRODUCTS:
        product = 1.0
        for term in terms:
            product *= term
        return product
    total = sum(terms)
    return total / len(terms) if rule is AccuracyRule.MEAN else total
