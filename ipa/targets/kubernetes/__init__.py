"""Running pipelines as objects of a Kubernetes API, whatever their kind: what every target there shares."""
