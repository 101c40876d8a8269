"""Clients of a service, a cluster or a manifest."""
