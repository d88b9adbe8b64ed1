"""Tests: a folder for each package of daskref, and these besides.

- ``package``: the package as a whole: layers, names, settings, command line, pages.
- ``integration``: a file for each promise of the table in the README, on clusters.
- ``hosts``: Dask on many hosts; ``stress``: random and long runs.
- ``support``: what tests share: values, clusters, servers, fakes.

What a folder needs and costs is said at its top. Tests of more than a quarter of a
second have the mark ``slow``.
"""
