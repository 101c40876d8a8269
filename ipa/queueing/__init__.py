"""Capacity and latency of stages and of chains. Pure."""
