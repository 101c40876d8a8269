"""The published runs repeated: cores and accuracy of IPA and its rivals, violations of InfAdapter."""
