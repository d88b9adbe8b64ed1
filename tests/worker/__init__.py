"""The worker's part. Needs at most a cluster in one process, or two workers."""
