"""Drill-down: what a row is about, the scope that every pane obeys, and the way back up."""

from __future__ import annotations

from dataclasses import replace

from ktop.lens import Lens
from ktop.model import Frame
from ktop.narrow import notes
from ktop.panes.subject import Subject, subject_of
from ktop.scope import HOST, Roster, Scope, container_of
from ktop.shell.base import Shell
from ktop.widgets.table import VirtualTable

ENOUGH_PIDS = 4096  # of a scope, as a target for stacks


class Scoping(Shell):
    """Enter, p, c, Backspace, g, S."""

    def set_scope(self, scope: Scope) -> None:
        """Everything from now on is about this."""
        if scope == self.lens.scope:
            return
        if scope:
            self.lens = Lens(self.track, scope, self.host.history, limits=self.limits)
            if self.host.whole is not None:
                self.lens.take(self.host.whole, self.host.at)
        else:
            self.lens = self.host
        self.make_up()
        self.show_again()
        self.keys_changed()

    def scope_notes(self, layer: str) -> list[str]:
        """What of a layer's figures is not the scope's alone, for its help."""
        lens = self.lens
        if not lens.scope or lens.whole is None:
            return []
        return [f"In this scope: {note}." for note in notes(
            lens.whole, Roster(lens.scope).members(lens.whole), layer)]

    def subject(self) -> Subject:
        """What the row under the cursor is about."""
        table = self.focused if isinstance(self.focused, VirtualTable) else next(
            iter(self.pane.tables()), None)
        if table is None or self.host.whole is None:
            return Subject()
        return subject_of(table.selected_row, self.host.whole)

    def on_virtual_table_selected(self, message: VirtualTable.Selected) -> None:
        """Enter or a double click."""
        if self.host.whole is None or message.row is None:
            return
        self.open_subject(subject_of(message.row, self.host.whole))

    def open_subject(self, subject: Subject) -> None:
        """A process opens in full; a control group becomes the scope."""
        if subject.pid is not None:
            from ktop.screens.detail import ProcessDetail

            self.open_over(ProcessDetail(subject.pid, subject.start, subject.name))
        elif subject.cgroup is not None or subject.path is not None:
            self._scope_to_group(subject)
        else:
            self.say(f"nothing to open: {subject.why or 'no row is under the cursor'}")

    def action_scope_process(self) -> None:
        """Everything about this process only; again: alone, without its children; again: with."""
        scope, subject = self.lens.scope, self.subject()
        if subject.pid is None and scope.pid is None:
            self.say(f"no process to go into: {subject.why or 'no row is under the cursor'}")
            return
        if scope.pid is not None and subject.pid in (None, scope.pid):
            self.set_scope(replace(scope, children=not scope.children))
            return
        self.set_scope(replace(scope, pid=subject.pid, start=subject.start, name=subject.name,
                               children=True))

    def action_scope_cgroup(self) -> None:
        """Everything about this control group only, with those below it."""
        subject = self.subject()
        if subject.cgroup is None and subject.path is None and self.lens.scope.pid is not None:
            subject = self._own_group(self.lens.scope.pid)
        if subject.cgroup is None and subject.path is None:
            self.say(f"no control group to go into: {subject.why or 'no row is under the cursor'}")
            return
        self._scope_to_group(subject)

    def _own_group(self, pid: int) -> Subject:
        rows = self.host.whole.processes.rows if self.host.whole else []
        row = next((p for p in rows if p.pid == pid), None)
        return Subject(cgroup=row.cgroup) if row else Subject(why=f"process {pid} has ended")

    def _scope_to_group(self, subject: Subject) -> None:
        groups = self.host.whole.cgroups if self.host.whole else []
        path = subject.path or next(
            (group.path for group in groups if group.id == subject.cgroup), None)
        if path is None or path.startswith("?"):
            self.say("the path of its control group is not known", "warn")
        elif path == "/":
            self.say("it is in no control group: that is the host's own", "normal")
        else:
            self.set_scope(Scope(cgroup=container_of(path)))

    def action_scope_up(self) -> None:
        """One step wider."""
        if self.lens.scope:
            self.set_scope(self.lens.scope.up())
        else:
            self.say("this is the whole host")

    def action_scope_host(self) -> None:
        """All the way up."""
        self.set_scope(HOST)

    def action_group(self) -> None:
        """Fold the tables of every pane by control group, or unfold them."""
        grouped, frame = not self.pane.grouped, self.lens.frame
        folded: dict[str, int] = {}
        for pane in self.panes:
            pane.grouped = grouped
            if frame is not None and pane.is_attached:
                folded[pane.key] = pane.fold_tables(frame)
        if grouped and frame is not None and not folded[self.pane.key]:
            self.say("nothing in this view belongs to control groups: another view or pane may")
        self.show_again()

    def action_stacks(self) -> None:
        """Stacks of the scope, or of the process under the cursor."""
        from ktop.screens.flame import FlameScreen

        scope, subject = self.lens.scope, self.subject()
        if not scope and subject.pid is not None:
            scope = Scope(pid=subject.pid, start=subject.start, name=subject.name)
        self.open_over(FlameScreen(scope, *self._targets(scope)))

    def action_compare(self) -> None:
        """The minute before the moment in view, beside the one before that."""
        from ktop.screens.compare import CompareScreen

        if self.host.whole is None:
            self.say("nothing to compare so far")
            return
        at = None if self.following else self.host.at
        self.open_over(CompareScreen(self.track, at, self.lens.scope))

    def _targets(self, scope: Scope) -> tuple[list[int], list[int]]:
        """What the kernel is to look at: processes or control groups by number."""
        whole: Frame | None = self.host.whole
        if not scope or whole is None:
            return [], []
        members = Roster(scope).members(whole)
        if members.cgroups is not None:
            return [], [group.id for group in whole.cgroups if members.has_group(group.id)]
        pids = [p.pid for p in whole.processes.rows if p.pid in members.pids][:ENOUGH_PIDS]
        return pids or ([scope.pid] if scope.pid is not None else []), []
