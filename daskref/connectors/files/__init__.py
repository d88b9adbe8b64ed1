"""Objects as files of one directory: the common part of ``shm``, ``file`` and ``zmq``.

Read ``connector`` and ``directory`` first: put, get, evict. A writer fills a hidden
file (``parts``, ``writing``, ``pieces``) and publishes it by rename (``names``).
Readers map it (``_mapping``) under a shared lock (``locks``). Evicted files are
recycled (``recycling``, ``parked``). ``session`` is one process's part in such a
directory (``folders``); the last process removes the directory. ``presence`` tells
which processes are alive, ``leases`` which objects no process will delete. ``reaper``
removes the directory if all processes were killed.
"""
