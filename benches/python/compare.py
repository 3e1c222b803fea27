"""Compares snapring with what one could use instead, side by side in one run. `benches/README.md` tells how."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))  # also under `python -P`, which leaves it out

from command import main

if __name__ == "__main__":
    sys.exit(main())
