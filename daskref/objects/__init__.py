"""Objects to bytes and back, and what is known of an object without its bytes.

Read ``codec`` first (the stored layout, and errors stored as values), then ``pickling``
and ``reducers``, which make the pickle and the buffers beside it. A ``reference`` is a
key, a store and metadata.

- ``attributes``: what a reference answers by itself: shape, columns, length
- ``written``: configurations of stores in programs and in TOML files
- ``signing``: signatures, checked before anything is unpickled
- ``cards``: how references and stores look in notebooks
- ``functions``: functions that travel pickled
"""
