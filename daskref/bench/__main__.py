"""``python -m daskref.bench``."""

import sys

from daskref.bench.program import main

if __name__ == "__main__":
    sys.exit(main())
