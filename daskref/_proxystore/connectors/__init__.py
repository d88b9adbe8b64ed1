"""The module of ProxyStore's connectors that is not a connector: ``protocols``.

:mod:`daskref.connectors` finds it here.
"""
