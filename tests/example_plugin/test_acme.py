"""The contracts that a plug-in of another package runs in its own tests."""

from __future__ import annotations

from ipa.testing import ForecasterContract, PolicyContract


class TestPolicy(PolicyContract):
    policy = "acme"


class TestForecaster(ForecasterContract):
    forecaster = "acme-trend"
