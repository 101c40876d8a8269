"""The public interface: its names are all there and documented, and its functions give what they promise."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import ipa.library
from ipa.forecast.reactive import WindowMaximum
from ipa.library import (
    InfeasibleError,
    InputError,
    NotFoundError,
    Policy,
    PolicyInputs,
    Termination,
    UsageError,
    backtest,
    example,
    forecast,
    frontier,
    load_pipeline,
    load_profiles,
    load_trace,
    make_policy,
    plan,
    simulate,
)
from ipa.policies.base import PolicyState
from tests.fakes.policy_contract import expected, observed_with

PIPELINE, PROFILES = example()
LOAD = [6.0] * 60 + [14.0] * 60


def test_its_names_are_there_sorted_and_documented() -> None:
    names = ipa.library.__all__
    assert names == sorted(names, key=lambda name: (name[0].islower(), name))
    for name in names:
        assert (inspect.getdoc(getattr(ipa.library, name)) or "").strip(), name


@pytest.mark.parametrize("name", [each for each in ipa.library.__all__ if each[0].islower()])
def test_its_functions_are_typed_and_take_options_by_name(name: str) -> None:
    function = getattr(ipa.library, name)
    hints = get_type_hints(function)
    parameters = inspect.signature(function).parameters
    assert set(hints) == {*parameters, "return"}
    if function.__module__ == "ipa.library":
        optional = [each for each in parameters.values() if each.default is not inspect.Parameter.empty]
        assert all(each.kind is inspect.Parameter.KEYWORD_ONLY for each in optional)


def test_nothing_else_is_public() -> None:
    # What it imports for itself and for its readers: these may go.
    imported = {"annotations", "Callable", "Mapping", "Sequence", "Path", "replace", "Profiles"}
    public = {name for name in vars(ipa.library) if not name.startswith("_")} - imported
    internal = {
        "FILE_NAME",
        "FORECASTERS",
        "LastValue",
        "POLICIES",
        "check_solver",
        "load_profile",
    }
    internal |= {"packaged_example", "planning_problem", "read_rates", "rungs_of", "solve"}
    assert public - internal == set(ipa.library.__all__)


def test_files_are_read_by_folder_or_by_name(root: Path) -> None:
    folder = root / "pipelines" / "video"
    assert load_pipeline(folder) == load_pipeline(str(folder / "pipeline.yaml"))
    profiles = load_profiles(root / "profiles" / "video")
    assert set(profiles) == {stage.name for stage in load_pipeline(folder).served}


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="there are no profiles in"):
        load_profiles(tmp_path)
    with pytest.raises(NotFoundError):
        load_pipeline(tmp_path / "none.yaml")
    (tmp_path / "pipeline.yaml").write_text("name: [")
    with pytest.raises(InputError):
        load_pipeline(tmp_path)
    (tmp_path / "trace.txt").write_text("3\n0\n5\n")
    assert load_trace(tmp_path / "trace.txt") == (3.0, 0.0, 5.0)


def test_a_plan_and_its_frontier_agree() -> None:
    best = plan(PIPELINE, PROFILES, 12.0, solver="exact")
    assert best.termination is Termination.OPTIMAL
    points = frontier(PIPELINE, PROFILES, 12.0)
    assert max(point.objective for point in points) == pytest.approx(best.objective)


def test_an_unknown_name_lists_the_known_ones() -> None:
    for wrong, name in (
        (lambda: plan(PIPELINE, PROFILES, 12.0, solver="none"), "highs"),
        (lambda: forecast([1.0], forecaster="none"), "level"),
        (lambda: simulate(PIPELINE, PROFILES, LOAD, policy="none"), "infadapter"),
    ):
        with pytest.raises(UsageError) as caught:
            wrong()
        assert name in caught.value.hint


def test_a_policy_decides_by_itself() -> None:
    made = make_policy("ours", PolicyInputs(PIPELINE, PROFILES, solver="exact"))
    running = plan(PIPELINE, PROFILES, 3.0, solver="exact").configs
    decided = made.decide(observed_with(9.0, running), expected(12.0), PolicyState(running))
    assert decided.configs == plan(PIPELINE, PROFILES, 12.0, solver="exact").configs


def test_equal_runs_are_equal_by_name_by_class_and_by_instance() -> None:
    def made(inputs: PolicyInputs) -> Policy:
        return make_policy("ours", inputs)

    by_name = simulate(PIPELINE, PROFILES, LOAD, seed=3)
    by_function = simulate(PIPELINE, PROFILES, LOAD, seed=3, policy=made)
    ours = make_policy("ours", PolicyInputs(PIPELINE, PROFILES, solver="exact"))
    by_instance = simulate(PIPELINE, PROFILES, LOAD, seed=3, policy=ours)
    for other in (by_function, by_instance):
        assert np.array_equal(by_name.done_s, other.done_s, equal_nan=True)
        assert by_name.ticks == other.ticks
    assert simulate(PIPELINE, PROFILES, LOAD, seed=4).born_s.tolist() != by_name.born_s.tolist()
    columns = by_name.columns()
    assert {len(column) for column in columns.values()} == {len(by_name.ticks)}
    assert columns["cores"] == [tick.cores for tick in by_name.ticks]


def test_an_exception_of_a_policy_that_is_passed_is_raised_as_it_is() -> None:
    class Broken:
        name = "broken"

        def __init__(self, inputs: PolicyInputs) -> None:
            raise LookupError("my own")

    with pytest.raises(LookupError, match="my own"):
        simulate(PIPELINE, PROFILES, LOAD, policy=Broken)  # type: ignore[arg-type]


def test_what_cannot_be_simulated_says_why() -> None:
    with pytest.raises(InputError, match="there is no load"):
        simulate(PIPELINE, PROFILES, [])
    with pytest.raises(InfeasibleError):
        simulate(PIPELINE, PROFILES, [1e5] * 10)


def test_a_forecast_is_by_name_or_by_forecaster() -> None:
    load = [5.0] * 60 + [9.0] * 60
    assert forecast(load, forecaster="window") == forecast(load, forecaster=WindowMaximum())
    peak = forecast(load)
    assert 0 < peak.point_rps <= peak.upper_rps
    scores = backtest([*load] * 20, ["last", WindowMaximum()], forecasts=50)
    assert list(scores) == ["last", "window"] and scores["last"].count == 50
