"""Pipelines as objects of the Kubernetes API, of any kind: what all targets on Kubernetes share."""
