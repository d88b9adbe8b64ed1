"""What runs in workers and nannies."""
