"""The speed of the simulator: request-stages a second, beside SimPy in the same run."""
