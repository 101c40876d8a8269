"""Plans as verbs make, read, compare and save them."""
