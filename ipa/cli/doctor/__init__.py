"""Checks of `ipa doctor`, one module per dependency."""
