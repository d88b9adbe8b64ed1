"""Connectors, without Dask. Needs Redis and S3 servers on loopback where it says so."""
