"""Proxies by themselves, and Dask's functions on them. Needs no cluster."""
