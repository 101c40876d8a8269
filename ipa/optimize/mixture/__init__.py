"""Several configurations of a whole pipeline side by side, each with its share of the requests."""
