"""Stacks as a tree, for an icicle: built and kept up to date in slices, walked, found in, folded.

Pure: from `Stacks` to figures, no widget and no clock.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ktop.model_stacks import Stack, Stacks

SLICE = 200          # stacks worked in before keys get their turn: about 2 ms
ALL = "all"
KERNEL_MARK = "_[k]"
NARROWEST = 0.6      # of a cell: what is less is shown together


class Node:
    """A function where it was called from. Times in ns.

    total: of it and what it called; own: of itself. samples likewise. stuck: the part of `total`
    that was uninterruptible (state D). depth: 0 is the root, 1 the commands.
    """

    __slots__ = ("children", "depth", "name", "own", "own_samples", "parent", "samples", "stuck",
                 "total")

    def __init__(self, name: str, parent: Node | None) -> None:
        self.name, self.parent = name, parent
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.children: dict[str, Node] = {}
        self.total = self.own = self.samples = self.own_samples = self.stuck = 0

    @property
    def kernel(self) -> bool:
        """Whether it is a function of the kernel."""
        return self.name.endswith(KERNEL_MARK)

    def child(self, name: str) -> Node:
        """The one of that name, made if there is none."""
        found = self.children.get(name)
        if found is None:
            found = self.children[name] = Node(name, self)
        return found

    def callees(self) -> list[Node]:
        """Children with figures, the heaviest first."""
        return sorted((c for c in self.children.values() if c.total > 0),
                      key=lambda c: (-c.total, c.name))

    def path(self) -> list[str]:
        """Names from below the root down to it."""
        names: list[str] = []
        node: Node | None = self
        while node is not None and node.parent is not None:
            names.append(node.name)
            node = node.parent
        return names[::-1]


@dataclass(frozen=True)
class Function:
    """One function, wherever it was called from. own, total: ns of itself, and with what it called
    (a recursion counts once)."""

    name: str
    own: int
    total: int


class Flame:
    """The tree of one kind of stacks, and its functions by weight."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._clear(0)

    def _clear(self, started_ns: int) -> None:
        self.root = Node(ALL, None)
        self._started_ns = started_ns
        self._seen: list[Stack] = []
        self._leaves: list[Node | None] = []
        self._names: list[str] = []
        self._own: dict[int, int] = {}
        self._total: dict[int, int] = {}

    def work(self, stacks: Stacks) -> Iterator[None]:
        """Become what `stacks` says, a slice at a time. Only what changed costs anything."""
        if not self._continues(stacks):
            self._clear(stacks.started_ns)
        self._names = stacks.names
        for at, stack in enumerate(stacks.stacks):
            if at % SLICE == SLICE - 1:
                yield
            if at == len(self._seen):
                mine = stack.kind == self.kind
                self._leaves.append(self._leaf(stack) if mine else None)
                self._seen.append(stack)
                if mine:
                    self._add(at, stack, stack.samples, stack.ns)
                continue
            before = self._seen[at]
            if self._leaves[at] is not None and (
                    stack.ns != before.ns or stack.samples != before.samples):
                self._add(at, stack, stack.samples - before.samples, stack.ns - before.ns)
            self._seen[at] = stack

    def _continues(self, stacks: Stacks) -> bool:
        """Whether what is there is the beginning of it: the contract of one run, unless a scope
        has filtered it."""
        known, names = len(self._seen), len(self._names)
        return (stacks.started_ns == self._started_ns and len(stacks.stacks) >= known
                and stacks.names[:names] == self._names
                and all(old.names == new.names and old.pid == new.pid and old.kind == new.kind
                        and old.comm == new.comm
                        for old, new in zip(self._seen, stacks.stacks, strict=False)))

    def _leaf(self, stack: Stack) -> Node:
        node = self.root.child(stack.comm)
        for name in stack.names:
            node = node.child(self._names[name])
        return node

    def _add(self, at: int, stack: Stack, samples: int, ns: int) -> None:
        node = self._leaves[at]
        assert node is not None
        stuck = ns if stack.state == "D" else 0
        node.own += ns
        node.own_samples += samples
        above: Node | None = node
        while above is not None:
            above.total += ns
            above.samples += samples
            above.stuck += stuck
            above = above.parent
        if stack.names:
            self._own[stack.names[-1]] = self._own.get(stack.names[-1], 0) + ns
            for name in set(stack.names):
                self._total[name] = self._total.get(name, 0) + ns

    # -- questions -----------------------------------------------------------------------------

    def functions(self) -> list[Function]:
        """All of them with their figures, in no order."""
        own = self._own
        return [Function(self._names[at], own.get(at, 0), total)
                for at, total in self._total.items() if total > 0]

    def find(self, names: list[str]) -> Node:
        """The node of a path, or the nearest there is above it."""
        node = self.root
        for name in names:
            below = node.children.get(name)
            if below is None:
                break
            node = below
        return node

    def matching(self, text: str) -> frozenset[str]:
        """Names of functions and commands that contain `text`, whatever the case."""
        if not text:
            return frozenset()
        wanted = text.casefold()
        found = {self._names[at] for at in self._total if wanted in self._names[at].casefold()}
        return frozenset(found | {c for c in self.root.children if wanted in c.casefold()})

    def share(self, names: frozenset[str]) -> float:
        """Share of the time in stacks that have one of these in them, %."""
        numbers = {at for at, name in enumerate(self._names) if name in names}
        time = sum(stack.ns for stack, leaf in zip(self._seen, self._leaves, strict=True)
                   if leaf is not None and (stack.comm in names
                                            or not numbers.isdisjoint(stack.names)))
        return 100.0 * time / self.root.total if self.root.total else 0.0

    def heaviest(self, names: frozenset[str]) -> list[Node]:
        """Nodes with one of these names, the heaviest first; none below another one."""
        found: list[Node] = []
        todo = [self.root]
        while todo:
            node = todo.pop()
            if node.name in names and node.parent is not None:
                found.append(node)
            else:
                todo += node.children.values()
        return sorted((n for n in found if n.total > 0), key=lambda n: -n.total)


# -- where boxes are -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Box:
    """A node's place in its row: cells [left, right). node None: several, too narrow to show."""

    left: int
    right: int
    node: Node | None


def layout(top: Node, width: int, depth: int) -> list[list[Box]]:
    """`depth` rows of boxes below and with `top`, which is as wide as all. The heaviest is left."""
    rows = [[Box(0, width, top)]]
    while len(rows) < depth:
        row: list[Box] = []
        for box in rows[-1]:
            if box.node is not None:
                row += _below(box.node, box.left, box.right)
        if not row:
            break
        rows.append(row)
    return rows


def _below(node: Node, left: int, right: int) -> list[Box]:
    found: list[Box] = []
    scale = (right - left) / node.total if node.total else 0.0
    before, shown = 0, left
    for child in node.callees():
        begin, end = left + round(before * scale), left + round((before + child.total) * scale)
        if child.total * scale < NARROWEST:
            break  # only narrower ones follow
        before += child.total
        if end > begin:
            found.append(Box(begin, end, child))
            shown = end
    rest = left + round(sum(c.total for c in node.children.values() if c.total > 0) * scale)
    if rest > shown:
        found.append(Box(shown, rest, None))
    return found


# -- as text ---------------------------------------------------------------------------------------


def folded(stacks: Stacks, kind: str) -> str:
    """FlameGraph's folded form, `command;function;function count`, the heaviest first.

    The count is samples for `cpu` and microseconds for `off`, as offcputime -f has it.
    """
    counts: dict[str, int] = {}
    names = [name.replace(";", ":") for name in stacks.names]
    for stack in stacks.stacks:
        if stack.kind == kind:
            line = ";".join((stack.comm.replace(";", ":"), *(names[at] for at in stack.names)))
            count = stack.samples if kind == "cpu" else stack.ns // 1000
            counts[line] = counts.get(line, 0) + count
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return "".join(f"{line} {count}\n" for line, count in ordered if count)


@dataclass(frozen=True)
class TopStack:
    """One stack of many. names: outermost first. pct: share of the time of its kind and process."""

    names: list[str]
    comm: str
    state: str
    samples: int
    ns: int
    pct: float


def top_stacks(stacks: Stacks | None, pid: int | None, kind: str, n: int) -> list[TopStack]:
    """The n heaviest stacks of a process (None: of all) and kind, the heaviest first."""
    if stacks is None:
        return []
    mine = [s for s in stacks.stacks if s.kind == kind and pid in (None, s.pid)]
    total = sum(s.ns for s in mine)
    mine.sort(key=lambda s: -s.ns)
    return [TopStack([stacks.names[at] for at in s.names], s.comm, s.state, s.samples, s.ns,
                     100.0 * s.ns / total if total else 0.0) for s in mine[:n]]
