"""A review of changed files: what it says to people and to the platforms that show it."""
