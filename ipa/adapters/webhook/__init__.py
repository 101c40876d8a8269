"""Tells a receiver of the operator's choice what is decided and done: signed CloudEvents over HTTP."""
