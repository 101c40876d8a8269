"""The mixture of the forecaster's rungs beside each rung alone, on many loads."""
