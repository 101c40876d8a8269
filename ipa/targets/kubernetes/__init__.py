"""Pipelines as objects of the Kubernetes API, of any kind: the shared part of all targets there."""
