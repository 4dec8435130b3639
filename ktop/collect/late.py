"""The layers that are loaded after the first frames: files, tcp, block.

Their group's compile child starts after the first tick, so that it does not delay it, and is never
waited for. A layer is also made when its programs are refused: it shows what /proc has.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

from ktop.bpf.engine import Engine
from ktop.bpf.layers import GROUPS, LAYER_CLASSES, probes_of
from ktop.collect.layer import Layer, Tick
from ktop.model import Frame


class LateLayers:
    """All groups but the first."""

    def __init__(self, options: dict[str, Any], bpf: bool, settings: dict[str, dict[str, Any]],
                 joins: dict[str, Callable[[Engine], None]] | None = None) -> None:
        """settings: attributes to set, by layer.

        joins: what to call for a layer that is a part of one already there.
        """
        self._options, self._bpf, self._settings = options, bpf, settings
        self._joins = joins or {}
        self._waiting: list[int] = []  # numbers of groups whose turn has not come
        self._loading: Engine | None = None
        self._watched: set[str] = set()
        self._thresholds: dict[str, int] = {}
        self._fresh: set[str] = set()  # layers without a tick so far: no rates yet
        self.engines: list[Engine] = []
        self.layers: dict[str, Layer[Any]] = {}

    def start(self) -> None:
        """Begin to load."""
        for number, group in enumerate(GROUPS[1:], 1):
            if group.on_request:
                continue
            if self._bpf:
                self._waiting.append(number)
            else:
                self._make(group.layers, None)
        self.poll()

    def poll(self) -> None:
        """Take over what has finished loading, start the next: a compiler takes 140 MB, so there
        is one at a time, and what is looked at comes first."""
        engine = self._loading
        if engine is not None and engine.poll():
            self._loading = None
            self.engines.append(engine)
            engine.watch(self._watched)
            self._make(GROUPS[engine.group].layers, engine)
        if self._loading is None and self._waiting:
            number = min(self._waiting, key=lambda n: not any(
                p.layer in self._watched for p in probes_of(GROUPS[n])))
            self._waiting.remove(number)
            self._loading = Engine(self._options, number)
            self._loading.start()

    def wait(self) -> None:
        """Until all are loaded (snapshots, tests)."""
        while self._loading is not None:
            self._loading.wait()
            self.poll()

    def _make(self, names: tuple[str, ...], engine: Engine | None) -> None:
        for name in names:
            if name not in LAYER_CLASSES:
                if engine is not None and name in self._joins:
                    self._joins[name](engine)
                continue
            module, _, cls = LAYER_CLASSES[name].partition(":")
            self.layers[name] = getattr(importlib.import_module(module), cls)(engine)
            self._fresh.add(name)
            for attribute, value in self._settings.get(name, {}).items():
                setattr(self.layers[name], attribute, value)
            if name in self._thresholds:
                self.layers[name].set_threshold(self._thresholds[name])

    def watch(self, names: set[str]) -> None:
        """Which layers are looked at from now on."""
        self._watched = names
        for engine in self.engines:
            if not GROUPS[engine.group].on_request:
                engine.watch(names)

    def set_thresholds(self, thresholds: dict[str, int]) -> None:
        """What counts as slow, ns by layer."""
        self._thresholds.update(thresholds)
        for name, ns in thresholds.items():
            if name in self.layers:
                self.layers[name].set_threshold(ns)

    def drain(self) -> None:
        """Make room in the event rings between ticks."""
        self.poll()
        for layer in self.layers.values():
            layer.drain()

    def update(self, frame: Frame, tick: Tick) -> None:
        """Each layer's part into the frame, its losses into the frame's health."""
        self.poll()
        for name, layer in self.layers.items():
            tick.watched = name in self._watched
            interval = tick.interval_ns
            if name in self._fresh:
                tick.interval_ns = None
                self._fresh.discard(name)
            setattr(frame, name, layer.update(tick))
            tick.interval_ns = interval
            frame.health.lost_events += layer.lost
            frame.health.lost_total += layer.lost_total

    def close(self) -> None:
        """Detach everything."""
        for layer in self.layers.values():
            layer.close()
        for engine in (*self.engines, *([self._loading] if self._loading else [])):
            engine.close()
        self.layers, self.engines, self._loading, self._waiting = {}, [], None, []
