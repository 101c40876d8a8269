"""The use cases of the service, one subject per module: typed values in, typed values or an IpaError out."""
