"""What travels in graphs. Needs no cluster."""
