"""Delivery of decisions and changes to a configured receiver, as signed CloudEvents over HTTP."""
