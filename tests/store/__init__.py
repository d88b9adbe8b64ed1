"""Stores and their registry. Needs no cluster and no server."""
