"""Experiments as files: an experiment.yaml becomes runs, Parquet tables and a page that needs no network."""
