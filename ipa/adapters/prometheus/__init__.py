"""Reads load and latency from Prometheus, or from a built-in server that answers the same."""
