"""What all roles share. Needs at most a cluster in one process, or two workers."""
