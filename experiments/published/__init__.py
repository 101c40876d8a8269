"""Cores as a decision against cores fixed beforehand, at the accuracy that was published."""
