"""How much the API bears, with a control loop beside it."""
