"""The engine of ``shm``, ``file`` and ``zmq``: objects as files of one directory.

Read ``connector`` and ``directory`` first: put, get, evict. An object is written into a
hidden file (``parts``, ``writing``, ``pieces``), published by a rename (``names``),
mapped by its readers (``_mapping``) under a shared lock (``locks``), and
recycled when it is evicted (``recycling``, ``parked``). ``session`` is one process's
part in such a directory (``folders``), which goes with the last process: ``presence``
tells which of them live, and ``leases`` which objects nobody will delete; ``reaper``
removes the directory if all of them were killed.
"""
