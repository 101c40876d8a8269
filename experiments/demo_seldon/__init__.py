"""Seldon on this machine: `make demo-seldon`, and how long changes take."""
