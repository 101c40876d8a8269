"""Pipelines whose objects somebody else scales: read and planned, never written."""
