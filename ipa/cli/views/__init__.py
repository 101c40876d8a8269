"""What verbs print for people."""
