"""Draws ``snapring top`` over a running demo as an SVG: ``python benches/figures/top.py benches/figures/top.svg``."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 110
WARM_UP_SECONDS = 8.0
SNAPRING = (sys.executable, "-P", "-m", "snapring")


def capture(folder: str) -> str:
    """What ``snapring top`` prints, with its colours, some seconds into a demo whose ring lies in ``folder``."""
    env = {**os.environ, "SNAPRING_DIR": folder, "FORCE_COLOR": "1", "COLUMNS": str(COLUMNS)}
    demo = subprocess.Popen([*SNAPRING, "demo", "--headless", "--seconds", "60"], env=env, stdout=subprocess.DEVNULL)
    try:
        time.sleep(WARM_UP_SECONDS)
        done = subprocess.run([*SNAPRING, "top", "demo"], env=env, stdout=subprocess.PIPE, text=True, check=True)
    finally:
        demo.terminate()
        demo.wait()
    return done.stdout


def main(target: Path) -> None:
    """Writes the picture."""
    with tempfile.TemporaryDirectory(prefix="snapring-figure-", dir="/dev/shm") as folder:
        text = capture(folder)
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(text.rstrip()))
    target.write_text(console.export_svg(title="snapring top"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
