"""The pipelines that ship with the project: their models, runtimes, workloads and scores."""
