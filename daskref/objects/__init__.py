"""Objects to bytes and back: codec, identity, references."""
