"""The digits pipeline: localise a digit on a canvas, then classify it. Trained here, nothing to download."""
