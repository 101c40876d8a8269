"""A policy, a forecaster and a solver for ipa, each in one file."""
