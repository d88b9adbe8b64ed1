"""Shared by client, scheduler and workers: one session, and connections that use it.

Read ``session`` first: one process's part of the cluster's store. Then:

- ``opening``: opens that store, in the scheduler and in processes that join;
  ``inband``: the reasons why values do not go there
- ``joining``, ``by_value``, ``sealing``: how a process of any version asks to join, and
  how its request keeps secrets out of logs
- ``family``, ``_leases``: the serialization family ``daskref``, for values without a
  Dask key, and the leases that keep their objects
- ``connections``: Dask's connections, with the family and with less delay
- ``views``: results that lie in the stored memory of a task's arguments
- ``relay``: stored objects inside Dask's messages, for a process that cannot reach the
  store
- ``locating``: where objects are, in a session with several hosts
- ``stats``: counts of processes, added up, and for Dask's page of metrics
- ``health``: the diagnosis of a process and its store
- ``notices``: log messages for users, about settings and sessions
"""
