"""The words of the house: plain frozen values, standard library only."""
