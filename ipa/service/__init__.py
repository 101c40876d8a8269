"""The use cases of the service, one subject a module: typed values in, typed values or an IpaError out."""
