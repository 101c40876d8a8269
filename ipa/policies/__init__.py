"""Who decides: ours and the rivals, all behind one protocol. Pure."""
