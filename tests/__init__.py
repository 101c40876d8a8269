"""Tests. A package, since some libraries bring one of this name."""
