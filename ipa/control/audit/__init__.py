"""The record of decisions and changes: its entries, its checkpoints, and the replay of a decision from it."""
