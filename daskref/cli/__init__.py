"""The command line: daskref info, stats, objects, top, doctor, run, sweep, bench.

Read ``program`` first: all commands, and what their exit codes mean. Then:

- ``looking``: info, stats, objects and top, which put nothing
- ``examining``: doctor; ``_findings`` says what is wrong, and how to mend it
- ``doing``: run, sweep and bench
- ``_cluster``: how a cluster is asked, without a client, and for a bounded time
- ``_printing``: what all commands print, and their options
"""

from daskref.cli.program import main as main

__all__ = [
    "main",
]
