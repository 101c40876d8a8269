"""Makes alert rules, dashboard and reference of the metrics; `python -m tools.monitoring`."""
