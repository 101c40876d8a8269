"""A simulator that the production engine runs in unchanged: requests, stages, pods, metrics and time."""
