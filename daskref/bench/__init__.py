"""The benchmark: plain Dask and daskref side by side."""
