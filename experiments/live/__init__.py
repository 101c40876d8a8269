"""Policies side by side on real processes, quiet and beside busy neighbours: `make bench-live`."""
