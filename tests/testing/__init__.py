"""What daskref.testing offers to others. Agents need namespaces."""
