"""Lifetimes of objects in users' stores. Needs no cluster; starts some processes."""
