"""A page of Dask's dashboard, where the scheduler has one and Bokeh is installed.

Read ``sampling`` first: it asks for the page's data, as long as the page is open.
``mounting`` adds the page to Dask's HTTP server and menu, and removes it; ``_page``
draws tables, ``_charts`` charts.
"""
