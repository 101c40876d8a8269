"""MILP solvers in processes that are killed at their time limit."""
