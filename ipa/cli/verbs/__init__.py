"""A module for each verb or group of verbs, each with `register(app)`."""
