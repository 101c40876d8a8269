"""A day of many pipelines on one budget: the runner of the experiment `scale`."""
