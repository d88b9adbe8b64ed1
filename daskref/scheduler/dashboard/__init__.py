"""A page of Dask's dashboard, where the scheduler has one and Bokeh is installed.

Read ``sampling`` first: what is looked up while somebody looks at the page, how often,
and how much of it. ``mounting`` puts the page into Dask's HTTP server and its menu, and
takes it away; ``_page`` draws it.
"""
