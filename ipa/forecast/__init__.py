"""The peak of the load to come, by a ladder of forecasters. Pure."""
