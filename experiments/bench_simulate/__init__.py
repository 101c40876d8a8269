"""How fast the simulator is: request-stages a second, beside SimPy in the same run."""
