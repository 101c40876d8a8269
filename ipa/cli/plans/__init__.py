"""Plans as the verbs make, read, compare and keep them."""
