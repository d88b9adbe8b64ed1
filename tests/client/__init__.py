"""The client's part. Needs at most a cluster in one process."""
