"""The two lines above the Block pane: the identities of queueing, and the headroom."""

from __future__ import annotations

from ktop import format as fmt
from ktop import theme
from ktop.model import Frame
from ktop.model_block import Block, Device
from ktop.panes.block_columns import share, total_rates
from ktop.widgets.strips import Piece, cut


def busy(device: Device) -> float:
    """Requests a second, for choosing what to look at."""
    return sum(op.per_s for op in device.ops) if device.ops else (
        (device.reads_per_s or 0.0) + (device.writes_per_s or 0.0)) / 1e6


def summary(block: Block, frame: Frame) -> list[Piece]:
    """The two identities: throughput, and requests under way."""
    ops = [op for d in block.devices if d.counted for op in d.ops if op.op != "flush"]
    if ops:
        rate: float | None = sum(op.per_s for op in ops)
        speed: float | None = sum(op.bytes_per_s for op in ops)
        under_way = block.concurrency
    else:
        known = block.reads_per_s is not None and block.writes_per_s is not None
        rate = (block.reads_per_s or 0.0) + (block.writes_per_s or 0.0) if known else None
        speed = None
        if known:
            speed = (block.read_bytes_per_s or 0.0) + (block.write_bytes_per_s or 0.0)
        under_way = block.queue
    times = theme.glyphs().times
    size = speed / rate if rate and speed is not None else None
    mean = under_way * 1e9 / rate if rate and under_way is not None else None
    lost = frame.health.lost_total
    pieces: list[Piece] = [
        (" ", "normal"), (fmt.rate(rate), "strong"), (f" IO/s {times} ", "dim"),
        (fmt.size(size), "strong"), (" = ", "dim"), (fmt.size_rate(speed), "strong"),
        ("    ", "dim"), (fmt.rate(rate), "normal"), (f"/s {times} ", "dim"),
        (fmt.duration(mean), "strong"), (" = ", "dim"), (fmt.number(under_way), "strong"),
        (" under way (kernel: ", "dim"), (fmt.number(block.queue), "normal"), (")", "dim")]
    if (block.unseen_pct or 0.0) >= 1 and (rate or 0.0) >= 100:
        pieces += [("   ", "dim"), (f"{fmt.pct(block.unseen_pct)}%", "warn"), (" unseen", "dim")]
    if lost:
        pieces += [("   ", "dim"), (fmt.grouped(lost), "bad"), (" events lost", "dim")]
    return pieces


def limits(device: Device | None) -> list[Piece]:
    """What is left of what the device is sold as, or of the best it has shown."""
    if device is None:
        return []
    iops, speed = total_rates(device)
    if device.limit is not None:
        of, most_iops, most_speed = "limit", device.limit.iops, device.limit.bytes_per_s
    else:
        of, most_iops, most_speed = "best seen", device.best_iops, device.best_bytes_per_s
    pieces: list[Piece] = [(f" {cut(device.name, 16)} ", "strong"), (of + " ", "dim")]
    shares = {"operations": share(iops, most_iops), "bytes": share(speed, most_speed)}
    pieces += [(fmt.rate(most_iops), "normal"), (" IO/s, in use ", "dim"),
               *_used(shares["operations"], device), ("   ", "dim"),
               (fmt.size_rate(most_speed), "normal"), (", in use ", "dim"),
               *_used(shares["bytes"], device)]
    known = {name: value for name, value in shares.items() if value is not None}
    if device.limit is not None and len(known) == 2:
        nearer = max(known, key=lambda name: known[name])
        pieces += [(f"   {nearer}", "normal"), (" nearer", "dim")]
    return pieces


def _used(value: float | None, device: Device) -> list[Piece]:
    if value is None:
        return [("-", "dim")]
    style = theme.load(value, 70, 90) if device.limit else "normal"
    return [(f"{fmt.pct(value)}%", style)]
