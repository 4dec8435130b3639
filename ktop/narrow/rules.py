"""What the layers' narrow modules share: whose a row is, and sums where None is unknown."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ktop import hist
from ktop.model import Hist
from ktop.scope import Members

Within = Callable[[int | None, int | None], bool]  # process, control group


def within(members: Members) -> Within:
    """Whether what is of this process and this control group is in the scope.

    Where the scope is of whole groups, the row's group decides as far as it is known, so that
    nothing is in two of them (what a kernel thread writes back is charged to another group).
    """
    groups, pids = members.cgroups, members.pids
    if groups is None:
        return lambda pid, cgroup: pid in pids
    return lambda pid, cgroup: cgroup in groups if cgroup is not None else pid in pids


def total(values: Iterable[float | None]) -> float | None:
    """The sum of what is known: None when nothing of it is, 0 when there is nothing to sum."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if known or not found else None


def merged(hists: Iterable[Hist | None]) -> Hist | None:
    """The histogram of all; None when there is none."""
    known = [h for h in hists if h is not None]
    return hist.merge(known) if len(known) > 1 else known[0] if known else None
