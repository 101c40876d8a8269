"""Attacks on the real service, its record and its data plane, with figures: `make attack`."""
