"""The command line: daskref info, stats, objects, top, doctor, run, sweep, bench.

Read ``program`` first: all commands, and what their exit codes mean. Then:

- ``looking``: info, stats, objects and top, which put nothing
- ``examining``: doctor; ``_findings``: what is wrong, and how to mend it
- ``doing``: run, sweep and bench
- ``_cluster``: requests to a cluster, without a client, and for a bounded time
- ``_printing``: output and options that all commands share
"""

from daskref.cli.program import main as main

__all__ = [
    "main",
]
