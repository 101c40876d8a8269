"""The world behind the ports, one folder for each part of it."""
