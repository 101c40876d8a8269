"""Domain types: plain frozen values, standard library only."""
