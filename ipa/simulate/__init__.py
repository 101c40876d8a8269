"""A simulator around the unchanged production engine: requests, stages, pods, metrics and time."""
