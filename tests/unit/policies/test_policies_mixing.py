"""The default policy with parts that share the load."""
