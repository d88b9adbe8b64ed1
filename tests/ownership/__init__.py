"""Owners and borrows in one process. Needs no cluster."""
