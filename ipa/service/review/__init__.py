"""The review of a change for `ipa ci`."""
