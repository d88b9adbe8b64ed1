"""The worker process: arguments become values, large results become references.

Read ``plugin`` first: it replaces the worker's handlers. Then:

- ``_boundary``: the graph node around a task; it resolves the task's dependencies in
  the task's thread
- ``_results``: results that go by reference, and their size in this worker
- ``_data``, ``_values``: results on their way to another process, and ``worker.data``
  as user functions see it
- ``_spares``: arguments that a task left unchanged, for the next task
- ``_serving``, ``_prefetch``: several hosts: this worker serves its host's objects, and
  fetches inputs of waiting tasks
- ``nanny``, ``_memory``: a process's own memory, without mapped objects
"""
