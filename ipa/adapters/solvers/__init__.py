"""MILP solvers that are sure to end."""
