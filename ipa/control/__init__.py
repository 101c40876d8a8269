"""One pure tick, its guards and the actuation; the loop that carries it out."""
