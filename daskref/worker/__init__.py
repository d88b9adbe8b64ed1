"""The worker process: arguments become values, large results become references.

Read ``plugin`` first: it replaces the worker's handlers. Then:

- ``_boundary``: the graph node around a task; it resolves what the task needs, in the
  task's thread
- ``_results``: the results that go by reference, and what they count as here
- ``_data``, ``_values``: results on their way to another process, and ``worker.data``
  as functions of the user see it
- ``_spares``: arguments that a task gave back unchanged, for the next task
- ``_serving``, ``_prefetch``: several hosts: this worker serves its host's objects, and
  fetches what waiting tasks need
- ``nanny``, ``_memory``: how much of a process's memory is its own
"""
