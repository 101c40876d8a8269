"""Every shipped comparison of policies at once: who is better than whom, and where ours is not."""
