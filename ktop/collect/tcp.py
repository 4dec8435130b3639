"""TCP layer: kernel data -> rows."""

from __future__ import annotations

from ktop.bpf.engine import Engine
from ktop.collect.layer import Tick
from ktop.model import Tcp


class TcpLayer:
    """The TCP layer, tick by tick."""

    def __init__(self, engine: Engine | None) -> None:
        self._engine = engine
        self.lost = 0
        self.lost_total = 0

    def drain(self) -> None:
        """Nothing is buffered."""

    def update(self, tick: Tick) -> Tcp:
        """One tick."""
        return Tcp()

    def set_threshold(self, ns: int) -> None:
        """Nothing is slow yet."""

    def close(self) -> None:
        """Nothing is held."""
