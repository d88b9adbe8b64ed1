"""The scheduler process: which objects are held, by what, and on which hosts they are.

Read ``_plugin`` first: each of Dask's transitions, and each message of a client or
worker, arrives there. Then, in the order in which an object meets them:

- ``_holders``: the table that decides when an object is deleted
- ``_values``: keys that only stand for a value, such as scattered ones
- ``_lostresults``: objects that are kept while their task is computed again
- ``_evictions``: deletion in batches, off the event loop, and the periodic sweep
- ``_network``: several hosts, with ``_locations`` (copies of an object, and the source
  of the next one) and ``_losses`` (what becomes of a dead host's objects)
- ``_watches``: clients that want to hear when a key is done or forgotten, for what they
  have lent to its task or bound to it in stores of their own
- ``_encryption``, ``_reports``: the transport of a session; counts of all processes
- ``install``: the plugin, added by the first client that joins
"""
