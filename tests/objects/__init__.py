"""Objects as bytes, their identity, references. Needs no cluster and no server."""
