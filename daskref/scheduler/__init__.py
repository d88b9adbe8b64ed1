"""The scheduler process: which objects are held, by what, and on which hosts they are.

Read ``_plugin`` first: each of Dask's transitions, and each message of a client or
worker, arrives there (those about several hosts in ``_dispatcher``). What follows for
stored objects is decided by a state machine without I/O:

- ``_events``: what can happen, and what is to be done then
- ``_state``: the machine; when an object is deleted is decided here
- ``_table``: all that is known of each object; ``_hosts``: the processes on each host
- ``_transfers``: which host fetches an object from which; ``_losses``: what becomes of
  objects that no host gives

And around it:

- ``_dispatcher``: feeds the machine, and does what it says
- ``_workers``: whether workers can take part, and what lets them
- ``_evictions``: deletion in batches, off the event loop, and the periodic sweep
- ``_values``: keys that only stand for a value, such as scattered ones
- ``_watches``: clients that want to hear when a key is done or forgotten, for what they
  have lent to its task or bound to it in stores of their own
- ``_encryption``, ``_reports``: the transport of a session; counts of all processes
- ``dashboard``: a page of Dask's dashboard, of what ``_reports`` tells
- ``install``: the plugin, added by the first client that joins
"""
