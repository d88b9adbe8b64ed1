"""Task graphs: nodes that stand for stored values, and the code that puts them there.

Read ``nodes`` first: what replaces a value, or a task with large values in it, and what
a worker calls. Then, as a graph leaves a client:

- ``expressions``: large values of a whole graph
- ``packing``: one task: its large values are stored beside its pickle
- ``literals``: cheap estimates of the size of values, and of functions with what they
  close over
- ``_pickling``: picklers that scan, divide and hash tasks
- ``lazy``: arguments that arrive as proxies
- ``frames``: hides frames of daskref in tracebacks, as Dask hides its own
"""
