"""A pipeline of this machine beside its simulation: `python -m experiments.fidelity`."""
