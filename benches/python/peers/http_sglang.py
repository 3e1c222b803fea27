"""SGLang's own `/v1/loads`: the router out of its wheel, unmodified, over its own shared-memory reader.

What the router asks of the rest of a server is answered by stand-ins that cost next to nothing: how many accelerators
there are, what they are called, and a tokenizer manager whose one method reads the snapshots.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

from model import Absent, Foreign

from peers.fetch import module_from_wheel
from peers.sglang import SGLang0523, load_module

MEMBER = "sglang/srt/entrypoints/v1_loads.py"
ACCELERATOR = "NVIDIA H100 80GB HBM3"


class Manager:
    """The part of a tokenizer manager that the route asks for."""

    def __init__(self, where: Path, ranks: int) -> None:
        """Attach to what the writers made."""
        self.reader = open_reader(where, ranks)

    async def get_loads(self, include: Iterable[str] | None = None, dp_rank: int | None = None) -> list[Foreign]:
        """Return the snapshots of all ranks, or of one."""
        if dp_rank is None:
            return list(self.reader.read_all())
        return [self.reader.read(dp_rank)]


def open_reader(where: Path, ranks: int) -> Foreign:
    """Return SGLang's reader of the store in `where`."""
    return load_module(SGLang0523.release).ShmLoadSnapshotReader(str(where / "sglang.shm"), ranks)


def sglang_app(where: Path, ranks: int) -> Foreign:
    """Return a FastAPI application with SGLang's router. The stand-ins stay: the route imports at every request."""
    from fastapi import FastAPI

    stubs = _stubs(Manager(where, ranks))
    sys.modules.update(stubs)
    api = FastAPI()
    api.include_router(_load_router().router)
    return api


def renderer() -> Callable[[list[Foreign]], Foreign]:
    """Return SGLang's function from snapshots to a response with Prometheus text; raises `Absent` without FastAPI."""
    try:
        with mock.patch.dict(sys.modules, _stubs(None)):
            render: Callable[[list[Foreign]], Foreign] = _load_router()._format_loads_prometheus
    except ImportError as error:
        raise Absent(f"needs FastAPI: pip install '.[bench]' ({error})") from error
    return render


def _load_router() -> ModuleType:
    path = module_from_wheel("sglang", SGLang0523.release, MEMBER)
    spec = importlib.util.spec_from_file_location("sglang_v1_loads", path)
    if spec is None or spec.loader is None:
        raise Absent(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _stubs(manager: Manager | None) -> dict[str, ModuleType]:
    parallel = SimpleNamespace(tp_size=8, pp_size=1, attn_dp_enabled=True, num_dp_ranks=8)
    state = SimpleNamespace(tokenizer_manager=manager)
    names: dict[str, dict[str, object]] = {
        "sglang": {},
        "sglang.srt": {},
        "sglang.srt.entrypoints": {},
        "sglang.srt.entrypoints.http_server": {"get_global_state": lambda: state},
        "sglang.srt.runtime_context": {"get_parallel": lambda: parallel},
        "sglang.srt.utils": {"get_device_name": lambda: ACCELERATOR},
        "sglang.version": {"__version__": SGLang0523.release},
    }
    stubs = {name: ModuleType(name) for name in names}
    for name, members in names.items():
        vars(stubs[name]).update(members)
    return stubs
