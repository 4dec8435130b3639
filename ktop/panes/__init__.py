"""One module per tab. `PANES` is the tab order.

A pane: class attributes `title` and `key` (the digit of its tab), BINDINGS with ids and
descriptions, `show(frame, history)` once per tick while it is visible, `help_text()`.
"""

from ktop.panes.base import Pane
from ktop.panes.block import BlockPane
from ktop.panes.diagnosis import DiagnosisPane
from ktop.panes.files import FilesPane
from ktop.panes.processes import ProcessesPane
from ktop.panes.sched import SchedulerPane
from ktop.panes.tcp import TcpPane

PANES: list[type[Pane]] = [ProcessesPane, FilesPane, TcpPane, BlockPane, SchedulerPane,
                           DiagnosisPane]

__all__ = ["PANES", "Pane", "ProcessesPane", "SchedulerPane"]
