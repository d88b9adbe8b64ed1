"""The benchmark: plain Dask, ProxyStore and daskref side by side, in one run.

Read ``program`` first: what ``daskref bench`` prints by default. ``rows`` has its
lines, ``measuring`` what all comparisons share. The other comparisons:

- ``connectors``: each connector against ProxyStore's of the same kind
- ``proxies``: proxies of four libraries, one operation at a time
- ``hosts``: several hosts, with ``clusters`` (Dask on them), ``bytes`` and ``rivals``
  (bytes alone) and ``links`` (speed of the links)
- ``simulate``, ``model``: how long a broadcast takes, predicted and checked
- ``objects``, ``flights``: models, users' classes, and real tables as data
"""
