"""Policies: ours and its rivals behind one protocol. Pure."""
