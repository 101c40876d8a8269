"""How fast the store grows, and what retention leaves of it."""
