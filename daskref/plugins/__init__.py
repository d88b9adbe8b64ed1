"""What runs inside scheduler, workers and nannies."""
