"""``python -m snapring``: the command ``snapring``."""

import sys

from snapring.cli import main

if __name__ == "__main__":
    sys.exit(main())
