"""Pipelines adopted without profiles, whose true performance the loop does not know."""
