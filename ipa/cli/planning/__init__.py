"""The answers of `ipa plan`: made, printed, and saved on request."""
