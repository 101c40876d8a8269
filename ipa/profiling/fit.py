"""Latency over batch size and cores, fitted to measured points."""
