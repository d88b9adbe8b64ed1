"""What runs in the scheduler: who holds which object, and where it is."""
