"""Objects to bytes and back, and what a process knows of an object without its bytes.

Read ``codec`` first (the stored layout, and errors stored as values), then ``pickling``
and ``reducers``, which make the pickle and the buffers beside it. A ``reference`` is a
key, a store and metadata.

- ``attributes``: attributes that a reference answers: shape, columns, length
- ``written``: configurations of stores in programs and in TOML files
- ``signing``: signatures, checked before anything is unpickled
- ``cards``: HTML of references and stores for notebooks
- ``functions``: functions that travel pickled
"""
