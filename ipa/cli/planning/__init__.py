"""What `ipa plan` answers: made, printed, and saved where asked."""
