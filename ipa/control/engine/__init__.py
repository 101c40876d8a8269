"""The decision of one tick, as pure functions: no I/O, clock, logging, environment, threads or globals."""
