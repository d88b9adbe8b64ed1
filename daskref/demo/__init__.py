"""The demonstration: a parameter sweep over real data, plain Dask beside daskref.

Read ``program`` first: the sweep, and the table that it prints. ``cluster`` starts a
cluster whose scheduler can be measured, ``traffic`` counts what goes over its
connections.
"""
