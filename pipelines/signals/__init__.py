"""The signals pipeline: what a disturbed signal is, by plain classes that Seldon's microservice serves."""
