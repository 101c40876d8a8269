"""A policy, a forecaster and a world for ipa, each in one file."""
