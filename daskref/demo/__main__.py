"""``python -m daskref.demo``."""

import sys

from daskref.demo.program import main

if __name__ == "__main__":
    sys.exit(main())
