"""The scheduler process: the holders of each stored object, and its copies on hosts.

Read ``_plugin`` first: it receives each of Dask's transitions, and the messages of
clients and workers (``_dispatcher`` receives those about several hosts). A state
machine without I/O decides what follows for stored objects:

- ``_events``: the events that go in, the instructions that come out
- ``_state``: the machine; it decides when an object is deleted
- ``_table``: all that is known of each object; ``_hosts``: the processes of each host
- ``_transfers``: which host fetches an object from which; ``_losses``: objects that no
  host serves

Around it:

- ``_dispatcher``: feeds the machine, and carries its instructions out
- ``_workers``: whether workers can take part, and their set-up
- ``_evictions``: deletion in batches, off the event loop, and the periodic sweep
- ``_values``: keys that stand for a stored value, such as scattered ones
- ``_watches``: keys whose end a client waits for
- ``_encryption``, ``_reports``: a session's transport; counts of all processes
- ``asking``: requests to other processes for ``_reports``, and the answers kept
- ``dashboard``: a page of Dask's dashboard that shows ``_reports``
- ``install``: adds the plugin when the first client joins
"""
