"""Modules of ProxyStore's package of stores; :mod:`daskref.store` finds them here.

By what they hold: ``base``, ``config``, ``future``, ``metrics`` and ``utils`` of the
store itself; ``lifetimes``; ``ref``, owners and borrows; ``exceptions`` and ``types``.
"""
