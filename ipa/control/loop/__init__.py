"""The loop of a pipeline: it gathers what a tick needs, asks the engine and carries out its decision."""
