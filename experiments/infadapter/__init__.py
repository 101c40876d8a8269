"""InfAdapter's experiment: one task, five ResNets, twenty cores."""
