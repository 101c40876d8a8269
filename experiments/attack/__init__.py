"""Attacks on running parts of the service: killed processes and hostile clients, with figures."""
