"""The engine of ``shm``, ``file`` and ``zmq``: objects as files of one directory.

Read ``directory`` first: put, get, evict. An object is written into a hidden file
(``parts``, ``writing``, ``pieces``), published by a rename (``names``), mapped by its
readers (``_mapping``, ``reading``) under a shared lock (``locks``), and recycled when
it is evicted (``recycling``, ``parked``, ``pagemap``). ``presence`` and ``leases`` tell
whether a session, or an object of it, is still in use.
"""
