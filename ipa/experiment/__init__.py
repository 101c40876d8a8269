"""Experiments as files: an experiment.yaml becomes cells, Parquet tables, and a self-contained report."""
