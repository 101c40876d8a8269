"""The best configuration for a rate: options, MILP, exact search, verification."""
