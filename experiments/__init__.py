"""Experiments, run with the package as it is installed."""
