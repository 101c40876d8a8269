"""Several variants of one task side by side, each with its cores and its share of the load (InfAdapter)."""
