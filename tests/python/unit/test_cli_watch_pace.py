import argparse
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest

from snapring.cli import watch
from snapring.cli.values import RankValue, Selection
from snapring.load import LoadSnapshot
from snapring.schema import compile_schema


def test_a_late_round_does_not_hasten_the_next(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rounds that are late keep the pace; one that was missed is left out, and the next comes an interval later."""
    now_s = 0.0
    monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: now_s, time=time.time))
    args = argparse.Namespace(interval=1.0, on_change=False, count=None, timeout=None, json=True)
    watching = watch.Watching(cast("Any", None), args)
    watching.selection = Selection(compile_schema(LoadSnapshot).text, None)

    printed = []
    for now_s in (0.9, 1.0, 1.8, 1.9, 2.5, 2.8, 2.9, 6.0, 6.1, 6.9, 7.0):
        watching.show([RankValue(0, "LIVE")], now=False)
        if capsys.readouterr().out:
            printed.append(now_s)

    assert printed == [0.9, 1.9, 2.9, 6.0, 7.0]
