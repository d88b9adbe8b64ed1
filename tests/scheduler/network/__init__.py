"""What the scheduler does for hosts that are apart, without hosts."""
