"""Reports: plots and pages from plain values."""
