"""What `make soak` says of a run: made-up figures whose growth is known."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from bench import soak_judge
from bench.soak_judge import BEGIN, END, FLAT, GROWS, NOISE, judge, readme, trend, verdict

MINUTES = [n / 20 for n in range(300)]  # a sample every three seconds


def points(of: Any) -> list[tuple[float, float]]:
    return [(minute, of(minute)) for minute in MINUTES]


def noisy(seed: int, spread: float) -> Any:
    """Up to that much more, as loads come and go: never less than what is held."""
    found = random.Random(seed)
    return lambda minute: spread * (found.random() + (minute % 0.6 > 0.3))


@pytest.mark.parametrize("seed", range(5))
def test_noise_without_growth_is_flat_and_a_leak_within_it_grows(seed: int) -> None:
    noise = noisy(seed, 4.0)
    still = points(lambda minute: 100 + noise(minute))
    leaking = [(minute, value + minute) for minute, value in still]
    assert verdict(still, 0.05, 1.0)["said"] == FLAT
    found = verdict(leaking, 0.05, 1.0)
    assert found["said"] == GROWS
    assert found["low"] < 13.75 < found["high"] and found["grown"] == pytest.approx(13.75, abs=2)


def test_steps_and_peaks_are_no_trend() -> None:
    peaks = points(lambda minute: 100 + 80 * (7 < minute < 7.3))
    assert verdict(peaks, 0.02, 1.0)["said"] == FLAT
    assert verdict(points(lambda minute: 5 + (minute > 7)), 0.0, 1.0)["said"] in (FLAT, NOISE)
    assert verdict(points(lambda minute: 5 + minute // 3), 0.0, 1.0)["said"] == GROWS


def test_what_shrinks_is_flat() -> None:
    assert verdict(points(lambda minute: 100 - minute), 0.0, 0.1)["said"] == FLAT


def test_the_slope_is_the_one_of_a_line() -> None:
    assert trend([(float(n), 2.0 * n + 1) for n in range(8)]) == pytest.approx((2.0, 2.0, 2.0))


def test_the_table_is_written_between_its_markers(tmp_path: Path) -> None:
    samples = [{"minute": minute, "ui_rss": 80.0, "programs": 29.0, "ui_blocks": 800 + 9 * minute}
               for minute in MINUTES]
    result = {"minutes": 15.0, "date": "2026-11-23", "kernel": "6.18", "cpus": 2,
              "warm_minutes": 5.0, "held": judge(samples, 5.0)}
    file = tmp_path / "README.md"
    file.write_text("no markers")
    assert not readme(result, file) and file.read_text() == "no markers"
    file.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    assert readme(result, file) and readme(result, file)
    text = file.read_text()
    assert text.startswith(f"before\n{BEGIN}\n15 minutes of `make soak`")
    assert text.endswith(f"\n{END}\nafter\n") and "old" not in text
    assert "Growing: objects of the interface." in text
    assert "| memory of the interface | 80 MB | 80 MB | 80 MB |" in text
    assert "| BPF maps | - | - | - | - | too short to say |" in text
    assert len({row[0] for row in soak_judge.HELD}) == len(soak_judge.HELD)
