"""The text pipeline: the prose of a passage, its module, likely names. Trained here, nothing to download."""
