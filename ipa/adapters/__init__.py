"""The adapters of the ports, a folder for each external system."""
