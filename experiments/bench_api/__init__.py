"""The load that the API bears, with a control loop beside it."""
