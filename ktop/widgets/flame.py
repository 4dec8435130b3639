"""The icicle: a call tree, callers above what they call, widths by time. Walked by keys."""

from __future__ import annotations

from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.strip import Strip

from ktop import theme
from ktop.flame import Box, Flame, Node, layout
from ktop.widgets.strips import Piece, StripWidget, cells, cut, printable, strip

DEEPEST = 300  # rows: 127 user and 127 kernel functions, the command, ourselves
USER_EDGE, KERNEL_EDGE = "▏┊", "|:"  # Unicode, ASCII: user, kernel
MATCH_MARK = "*"


def style_of(node: Node, matches: frozenset[str]) -> str:
    """The theme's name for a box."""
    if node.name in matches and node.depth:
        return "flame.match"
    if node.depth <= 1:
        return "flame.top"
    if node.kernel:
        return "flame.kernel"
    return "flame.unknown" if node.name.startswith("[") else "flame.user"


def box_pieces(box: Box, selected: Node | None, matches: frozenset[str]) -> list[Piece]:
    """One box: an edge that tells kernel from user without a colour, and as much of the name as
    fits."""
    width, glyphs = box.right - box.left, theme.glyphs()
    if box.node is None:
        return [(glyphs.dot * width, "dim")]
    node = box.node
    mark = MATCH_MARK if node.name in matches and node.depth else ""
    label = mark + printable(node.name)
    if node is selected:
        return [(_pad(glyphs.mark + cut(label, width - 1), width), "flame.cursor")]
    edges = KERNEL_EDGE if glyphs.ascii else USER_EDGE
    text = (edges[node.kernel] + (cut(label, width - 1) if width > 3 else mark))[:width]
    return [(_pad(text, width), style_of(node, matches))]


def _pad(text: str, width: int) -> str:
    return text + " " * (width - cells(text))


def row_strip(row: list[Box], width: int, selected: Node | None,
              matches: frozenset[str]) -> Strip:
    """One row of boxes, with what is a caller's own time left free."""
    pieces: list[Piece] = []
    at = 0
    for box in row:
        if box.left > at:
            pieces.append((" " * (box.left - at), "normal"))
        pieces += box_pieces(box, selected, matches)
        at = box.right
    return strip(pieces, width)


class Icicle(StripWidget, can_focus=True):
    """A flame with a box that is selected, another that is as wide as all, and names found."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up", "walk('caller')", "Caller", show=False,
                tooltip="To the caller of this function.", id="flame.up"),
        Binding("down", "walk('callee')", "Callee", show=False,
                tooltip="To what it calls most.", id="flame.down"),
        Binding("left", "walk('left')", "Heavier sibling", show=False,
                tooltip="To the box at its left: called from the same, heavier.",
                id="flame.left"),
        Binding("right", "walk('right')", "Lighter sibling", show=False,
                tooltip="To the box at its right.", id="flame.right"),
        Binding("home", "walk('top')", "Top", show=False, tooltip="To the top of the picture.",
                id="flame.home"),
        Binding("end", "walk('bottom')", "Heaviest path", show=False,
                tooltip="Down the heaviest path to its end.", id="flame.end"),
        Binding("enter", "zoom", "Zoom in", show=False,
                tooltip="Make this function as wide as the screen.", id="flame.zoom"),
        Binding("backspace", "zoom_out", "Zoom out", show=False, tooltip="One zoom back.",
                id="flame.zoom_out"),
    ]

    class Selected(Message):
        """Another box is selected, or another one is zoomed into."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.flame = Flame("cpu")
        self.empty = ""  # what is said when there is nothing to draw
        self.matches: frozenset[str] = frozenset()
        self.zoomed: list[Node] = []  # roots of the picture, the present one last
        self._selected: Node | None = None
        self._top = 0  # first row in view
        self._visited: dict[Node, Node] = {}  # the callee one came up from
        self._laid: tuple[Node, int, list[list[Box]]] | None = None  # root, width, all its rows

    # -- data ----------------------------------------------------------------------------------

    def show(self, flame: Flame, again: bool = True) -> None:
        """Draw it. Where we are in it stays; `again`: the nodes may be others than before."""
        if again:
            here = self._selected.path() if self._selected is not None else []
            zoomed = [node.path() for node in self.zoomed]
            self._visited.clear()
            self.zoomed = [node for node in map(flame.find, zoomed) if node.parent is not None]
            self._selected = flame.find(here)
        self.flame, self._laid = flame, None
        if not self._inside(self.selected):
            self._selected = self.root
        self.repaint()

    def find(self, names: frozenset[str]) -> None:
        """Mark functions of these names."""
        self.matches = names
        self.repaint()

    @property
    def root(self) -> Node:
        """What is as wide as the picture."""
        return self.zoomed[-1] if self.zoomed else self.flame.root

    @property
    def selected(self) -> Node:
        """The box that the keys are on."""
        return self._selected if self._selected is not None else self.root

    def select(self, node: Node) -> None:
        """Go to a node, wherever it is: zoomed out as far as that takes."""
        while self.zoomed and not self._inside(node):
            self.zoomed.pop()
        self._selected = node
        self.repaint()
        self.post_message(self.Selected())

    def _inside(self, node: Node) -> bool:
        """Whether it is below the picture's root, and still there."""
        above: Node | None = node
        while above is not None:
            if above is self.root:
                return True
            above = above.parent
        return False

    # -- keys ----------------------------------------------------------------------------------

    def _rows(self, width: int | None = None) -> list[list[Box]]:
        width = max(1, self.size.width) if width is None else width
        if self._laid is None or self._laid[:2] != (self.root, width):
            self._laid = self.root, width, layout(self.root, width, DEEPEST)
        return self._laid[2]

    def _shown(self, rows: list[list[Box]], depth: int) -> list[Node]:
        at = depth - self.root.depth
        row = rows[at] if 0 <= at < len(rows) else []
        return [box.node for box in row if box.node is not None]

    def action_walk(self, where: str) -> None:
        """Along the tree; boxes too narrow to be seen are passed over (zoom in to reach them)."""
        here, rows = self.selected, self._rows()
        to: Node | None = None
        if where == "caller" and here is not self.root:
            to = here.parent
            if to is not None:
                self._visited[to] = here
        elif where == "callee":
            to = self._callee(here, self._shown(rows, here.depth + 1))
        elif where in ("left", "right"):
            row = self._shown(rows, here.depth)
            at = row.index(here) + (1 if where == "right" else -1) if here in row else -1
            to = row[at] if 0 <= at < len(row) else None
        elif where == "top":
            to = self.root
        elif where == "bottom":
            to = here
            self._visited.clear()
            while (below := self._callee(to, self._shown(rows, to.depth + 1))) is not None:
                to = below
        if to is not None and to is not here:
            self.select(to)

    def _callee(self, node: Node, shown: list[Node]) -> Node | None:
        """The one that we came up from, else the heaviest that can be seen."""
        below = [other for other in shown if other.parent is node]
        visited = self._visited.get(node)
        return visited if visited in below else below[0] if below else None

    def action_zoom(self) -> None:
        """The selected box becomes as wide as all."""
        if self.selected is not self.root:
            self.zoomed.append(self.selected)
            self._moved()

    def action_zoom_out(self) -> None:
        """Back to what was before."""
        if self.zoomed:
            self.zoomed.pop()
            self._moved()

    def _moved(self) -> None:
        self.repaint()
        self.post_message(self.Selected())

    # -- picture -------------------------------------------------------------------------------

    def lines(self, width: int, height: int) -> list[Strip]:
        """The rows in view; the selected box is among them."""
        if not self.flame.root.total:
            return [strip([], width), *(strip([("  " + line, "dim")], width)
                                        for line in self.empty.splitlines())][:height]
        at, rows = self.selected.depth - self.root.depth, self._rows(width)
        self._top = min(max(self._top, at - height + 1), at, max(0, len(rows) - height))
        return [row_strip(row, width, self.selected, self.matches)
                for row in rows[self._top:self._top + height]]

    @property
    def hidden(self) -> tuple[int, bool]:
        """Rows above the picture, and whether there are more below."""
        return self._top, len(self._rows()) > self._top + self.size.height

    def on_click(self, event: events.Click) -> None:
        """Select; twice: zoom in."""
        event.stop()
        rows = self._rows()
        at = self._top + event.y
        if at >= len(rows):
            return
        box = next((b for b in rows[at] if b.left <= event.x < b.right), None)
        if box is not None and box.node is not None:
            self.select(box.node)
            if event.chain == 2:
                self.action_zoom()
