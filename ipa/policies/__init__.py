"""Policies: ipa's own and its rivals behind one protocol. Pure."""
