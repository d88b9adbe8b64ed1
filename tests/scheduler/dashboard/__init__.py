"""The page in Dask's dashboard."""
