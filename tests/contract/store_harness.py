"""Helpers that the suites of the store share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sqlalchemy import Engine, create_engine

from ipa.adapters.store import Store
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.observation import Forecast
from ipa.model.plan import Plan, StageConfig, StagePlan, Termination

Reopen = Callable[[], Store]


def plain_engine(url: str) -> Engine:
    """The database without anything of ours around it."""
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://"))


def a_decision(tick: int, *, pipeline: str = "ocr", action: Action = Action.HOLD) -> Decision:
    config = StageConfig("detect", "v4-320", 4, 0.5, 2)
    stage = StagePlan("detect", "v4-320", 4, 0.5, 2, 10.0, 40.0, 0.1, 0.2, 0.125, 0.65)
    plan = Plan(
        pipeline, 10.0, Termination.OPTIMAL, "highs", 0.55, 0.55, 0.0, 0.65, 1.0, 0.3, 0.9, 0.01, (stage,),
        note="auto took highs", relaxations=("SLA ≥ 1 s",),
    )  # fmt: skip
    return Decision(
        decision_id=f"{pipeline}-{tick}",
        pipeline=pipeline,
        tick=tick,
        at=f"2026-11-24T10:00:{tick:02d}Z",
        action=action,
        reason=ReasonCode.SCALE_UP if action is Action.APPLY else ReasonCode.NO_CHANGE,
        detail="λ 9 → 10 rps",
        configs=(config,),
        previous=(replace(config, replicas=1),),
        mode=Mode.ACTIVE,
        observed_rate_rps=9.0,
        forecast=Forecast(9.5, 10.0, 0.95, 20.0, "holt-winters", 0.9, ("learned: too little history",)),
        plan=plan,
    )
