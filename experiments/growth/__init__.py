"""The growth of the store, and what retention leaves of it."""
