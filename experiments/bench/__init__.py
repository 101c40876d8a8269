"""The time and memory of planning, and its failures, measured side by side."""

# The figures are those of one core; to be set before NumPy is imported.
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
