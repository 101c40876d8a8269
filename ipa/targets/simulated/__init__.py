"""Simulated pipelines under a load, as fast as wanted: the target of `ipa demo`."""
