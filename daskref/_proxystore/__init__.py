"""Names of ProxyStore's modules, where daskref has what they hold somewhere else.

A program of ProxyStore's that imports from ``daskref`` instead finds its modules: what
it calls ``daskref.store.ref`` is the file ``store/ref.py`` in here. The faces of the
packages ``daskref``, ``daskref.store`` and ``daskref.connectors`` put this folder on
their search paths.

The folders ``store`` and ``connectors`` hold names only. ``factory`` and ``serialize``
have the little for which daskref itself has no use.
"""
