"""Reviews of changed files, for people and for the platforms that show them."""
