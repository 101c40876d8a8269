"""The loop of a pipeline: gathers the inputs of a tick, runs the engine and carries out its decision."""
