"""A module for each verb or group of verbs; `ipa.cli.verb_help.GROUPS` lists them."""
