"""Fits of latency: their form, their domain, their error, and what throughput they give."""

from __future__ import annotations

import pytest

from ipa.model.errors import DomainError
from ipa.model.profile import ProfilePoint, VariantProfile
from ipa.profiling.fit import Form, LatencyFit, fit_variant


def profile(*latencies: tuple[float, int, float], **extra: float) -> VariantProfile:
    points = tuple(ProfilePoint(cores, batch, latency_s, **extra) for cores, batch, latency_s in latencies)
    return VariantProfile("small", 0.5, points)


def fit(*latencies: tuple[int, float]) -> LatencyFit:
    return fit_variant(profile(*((1.0, batch, latency_s) for batch, latency_s in latencies))).at(1.0)


def quadratic(batch: int) -> float:
    return 0.01 + 0.004 * batch + 0.0001 * batch**2


def test_a_quadratic_is_found_again() -> None:
    fitted = fit(*((batch, quadratic(batch)) for batch in (1, 2, 8, 32, 64)))
    assert fitted.form is Form.QUADRATIC
    assert fitted.coefficients == pytest.approx((0.01, 0.004, 0.0001))
    assert fitted.latency_s(16) == pytest.approx(quadratic(16))
    assert fitted.latencies_s == pytest.approx([quadratic(batch) for batch in fitted.batch_sizes])
    assert fitted.r2_ratio == pytest.approx(1)
    assert fitted.max_error_ratio == pytest.approx(0, abs=1e-9)
    assert fitted.loo_error_ratio == pytest.approx(0, abs=1e-9)


def test_a_quadratic_that_falls_gives_way_to_a_line() -> None:
    # Through these three points the parabola turns at a batch of about 40.
    fitted = fit((1, 0.1), (32, 1.0), (64, 0.9))
    assert fitted.form is Form.LINEAR
    assert fitted.coefficients[1] > 0
    assert fitted.r2_ratio < 1


def test_a_quadratic_that_flattens_without_falling_is_kept() -> None:
    # Its slope, 0.01 − 0.00015·batch, is above 0 up to a batch of 66.
    fitted = fit(*((batch, 0.01 + 0.01 * batch - 0.000075 * batch**2) for batch in (1, 2, 8, 32, 64)))
    assert fitted.form is Form.QUADRATIC
    assert fitted.coefficients == pytest.approx((0.01, 0.01, -0.000075))


def test_a_quadratic_that_turns_negative_gives_way_to_a_line() -> None:
    fitted = fit((1, 0.01), (2, 0.05), (8, 0.02), (16, 1.0), (32, 3.9))
    assert fitted.form is Form.LINEAR
    assert all(fitted.latency_s(batch) > 0 for batch in range(1, 33))


def test_a_falling_line_gives_way_to_the_mean() -> None:
    fitted = fit((1, 0.4), (2, 0.3), (4, 0.2))
    assert (fitted.form, fitted.coefficients) == (Form.CONSTANT, (pytest.approx(0.3), 0, 0))
    assert fitted.r2_ratio == pytest.approx(0)
    assert fitted.max_error_ratio == pytest.approx(0.5)


def test_one_and_two_batches_are_met_exactly() -> None:
    single = fit((4, 0.2))
    assert (single.form, single.latency_s(4), single.r2_ratio) == (Form.CONSTANT, pytest.approx(0.2), 1)
    double = fit((1, 0.1), (4, 0.4))
    assert double.form is Form.LINEAR
    assert double.latency_s(2) == pytest.approx(0.2)
    assert (single.loo_error_ratio, double.loo_error_ratio) == (None, None)


def test_leaving_out_is_harder_than_fitting() -> None:
    noise = {1: 1.05, 2: 0.93, 8: 1.1, 32: 0.95, 64: 1.02}
    fitted = fit(*((batch, quadratic(batch) * factor) for batch, factor in noise.items()))
    assert fitted.loo_error_ratio is not None
    assert 0 < fitted.loo_error_ratio < 0.3
    assert 0 < fitted.max_error_ratio < 0.15
    assert 0.95 < fitted.r2_ratio < 1


@pytest.mark.parametrize("batch", [0, 65, 128])
def test_outside_the_measured_batches_is_an_error(batch: int) -> None:
    fitted = fit(*((batch, quadratic(batch)) for batch in (1, 8, 64)))
    with pytest.raises(DomainError, match=rf"batch size {batch} is outside the measured 1\.\.64 on 1 core"):
        fitted.latency_s(batch)


def test_cores_between_the_measured_ones_are_an_error() -> None:
    fitted = fit_variant(profile((1.0, 1, 0.1), (4.0, 1, 0.05)))
    with pytest.raises(DomainError, match="not measured on 2 cores") as caught:
        fitted.latency_s(1, 2.0)
    assert "1, 4" in str(caught.value)
    with pytest.raises(DomainError):
        fitted.capacity_rps(1, 2.0)


def test_each_core_count_has_its_own_fit() -> None:
    fitted = fit_variant(profile((1.0, 1, 0.1), (1.0, 2, 0.2), (4.0, 1, 0.05), (4.0, 2, 0.06)))
    assert fitted.latency_s(2, 1.0) == pytest.approx(0.2)
    assert fitted.latency_s(2, 4.0) == pytest.approx(0.06)


def test_throughput_is_measured_else_derived() -> None:
    points = (
        ProfilePoint(1.0, 1, 0.1, latency_mean_s=0.08, throughput_rps=11.0),
        ProfilePoint(1.0, 2, 0.2, latency_mean_s=0.16),
        ProfilePoint(1.0, 4, 0.4),
        ProfilePoint(1.0, 8, 0.8),
    )
    fitted = fit_variant(VariantProfile("small", 0.5, points))
    assert fitted.capacity_rps(1, 1.0) == 11.0
    assert fitted.capacity_rps(2, 1.0) == pytest.approx(2 / 0.16), "by the mean latency"
    assert fitted.capacity_rps(4, 1.0) == pytest.approx(4 / 0.4), "by the fit"
    assert fitted.capacity_rps(6, 1.0) == pytest.approx(6 / 0.6), "by the fit, between the points"
