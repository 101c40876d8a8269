"""The output of verbs for people: tables and lines."""
