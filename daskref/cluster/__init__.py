"""What client, scheduler and workers share: one session, and connections that use it.

Read ``session`` first: what one process has of the cluster's store. Then:

- ``opening``: what opens that store, in the scheduler and in who joins; ``inband``: why
  some values do not go there
- ``joining``, ``by_value``, ``sealing``: how a process asks to join, of any version,
  and how its request keeps secrets out of logs
- ``family``, ``_leases``: the serialization family ``daskref``, for values that have no
  Dask key, and the leases that such objects live by
- ``connections``: Dask's connections, with the family and with less delay
- ``views``: results that lie in the stored memory of a task's arguments
- ``relay``: the way round, inside Dask's messages, for a process that cannot see the
  store
- ``locating``: several hosts: where objects are
- ``stats``: what processes count, added up, and for Dask's page of metrics
- ``health``: what a process tells of itself and of its store when it is asked
- ``notices``: what users are told of settings and sessions
"""
