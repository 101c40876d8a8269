"""What it is worth to check plans by simulation."""
