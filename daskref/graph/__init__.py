"""Task graphs: nodes that stand for stored values, and what puts them there.

Read ``nodes`` first: what takes the place of a value, or of a task with large values in
it, and what a worker calls. Then, as a graph leaves a client:

- ``expressions``: a whole graph: what in it is large
- ``packing``: one task: its large values are stored beside its pickle
- ``literals``: sizes, as cheaply as can be: of values, and of functions with what they
  close over
- ``_pickling``: what a task is pickled with, and scanned, and hashed
- ``lazy``: arguments that arrive as proxies
- ``frames``: our frames, left out of tracebacks as Dask's own are
"""
