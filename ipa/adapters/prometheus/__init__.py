"""Reads load and latency from Prometheus, or from a built-in server with the same answers."""
