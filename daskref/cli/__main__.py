"""``python -m daskref.cli``."""

import sys

from daskref.cli.program import main

if __name__ == "__main__":
    sys.exit(main())
