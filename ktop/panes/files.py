"""Files: who reads and writes what and how long it takes; slow operations, opens, descriptors."""

from __future__ import annotations

from typing import Any, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from ktop import format as fmt
from ktop import hist, theme
from ktop.history import History
from ktop.history_files import Feed
from ktop.model import Files, Frame, Hist
from ktop.model_files import FileOps, PageCache
from ktop.panes import files_columns as columns
from ktop.panes.base import Names, Pane, column_help, in_view, paragraph, why_missing
from ktop.widgets.columns import Key
from ktop.widgets.heatmap import Heatmap
from ktop.widgets.histogram import Histogram
from ktop.widgets.strips import Line, Piece, Rule, cut
from ktop.widgets.table import VirtualTable
from ktop.wire import Control

HIGH, WIDE = 30, 100  # size of the pane from which there is room for the charts
MINUTE_NS = 60_000_000_000
SPAN_NS = 5 * MINUTE_NS
VIEWS = ("files", "processes", "slow", "opens", "fds", "mounts")
_SECTIONS = {"files": ("files",), "processes": ("processes",), "slow": ("slow",),
             "opens": ("folds", "opens"), "fds": ("fds",),
             "mounts": ("cache", "filesystems", "throttled", "mounts")}
_TABLES = ("files", "processes", "slow", "folds", "opens", "fds", "filesystems", "throttled",
           "mounts")
_TITLES = {"files": "Files", "processes": "Processes", "slow": "Slow operations",
           "folds": "Opens a minute, folded", "opens": "Opens", "fds": "Open descriptors",
           "cache": "Page cache", "filesystems": "Filesystems", "throttled": "Writers held back",
           "mounts": "Mounts"}
_CHARTED = ("files", "processes", "slow")
THRESHOLD_MIN_NS, THRESHOLD_MAX_NS = 10_000, 60_000_000_000


class FilesPane(Pane):
    """Six views of the files layer; `v` goes on to the next.

    With the cursor on a file or a process the histogram is that one's; Escape gives the host's.
    """

    title = "Files"
    key = "2"
    layer = "files"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("v", "view", "View", id="files.view",
                tooltip="Files, processes, slow operations, opens, descriptors, mounts"),
        Binding("o", "other", "Other part", id="files.other",
                tooltip="Move the focus to the next table"),
        Binding("left_parenthesis", "threshold(-1)", "Slow: half", show=False, key_display="(",
                id="files.threshold_down", tooltip="Half the time from which an operation is slow"),
        Binding("right_parenthesis", "threshold(1)", "Slow: double", show=False, key_display=")",
                id="files.threshold_up", tooltip="Twice the time from which an operation is slow"),
    ]
    DEFAULT_CSS = """
    FilesPane #summary { height: 2; }
    FilesPane #body { layout: vertical; width: 1fr; height: 1fr; }
    FilesPane .section { layout: vertical; width: 1fr; height: 1fr; }
    FilesPane #folds { height: 2fr; }
    FilesPane #cache { height: 3; }
    FilesPane #cache-line { height: 2; }
    FilesPane #filesystems { height: 2fr; }
    FilesPane #charts { layout: horizontal; width: 1fr; height: 13; }
    FilesPane #hist { margin: 0 1 0 0; }
    """

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.names = Names()
        self.view = "files"
        self._subject: tuple[str, Key] | None = None
        self._frame: Frame | None = None
        self._history: History | None = None
        self._threshold: int | None = None  # asked for, and not yet in a frame
        self._fed: dict[str, object] = {}

    def compose(self) -> ComposeResult:
        """A summary, the sections of all views, and two charts."""
        yield Line(id="summary")
        with Container(id="body"):
            for name in ("files", "processes", "slow", "folds", "opens", "fds"):
                with Container(id=name, classes="section"):
                    yield Rule(_TITLES[name], id=f"{name}-rule")
                    yield self._table(name)
            with Container(id="cache", classes="section"):
                yield Rule(_TITLES["cache"], id="cache-rule")
                yield Line(id="cache-line")
            for name in ("filesystems", "throttled", "mounts"):
                with Container(id=name, classes="section"):
                    yield Rule(_TITLES[name], id=f"{name}-rule")
                    yield self._table(name)
            with Container(id="charts"):
                with Container(id="hist", classes="section"):
                    yield Rule(id="hist-rule")
                    yield Histogram(id="histogram")
                with Container(id="heat", classes="section"):
                    yield Rule(id="heat-rule")
                    yield Heatmap(id="heatmap")

    def _table(self, name: str) -> VirtualTable:
        """The table of a section: columns, identity, order, columns that stay."""
        found: tuple[Any, Any, str | None, int] = {
            "files": (columns.file_columns(), lambda r: (r.dev, r.ino, r.generation), "inside", 0),
            "processes": (columns.process_columns(self.names), lambda r: r.pid, "inside", 1),
            "slow": (columns.slow_columns(self.names), _serial, None, 2),
            "folds": (columns.fold_columns(),
                      lambda r: (r.comm, r.fold, r.error or ""), "rate", 2),
            "opens": (columns.open_columns(self.names), _serial, None, 3),
            "fds": (columns.descriptor_columns(self.names), lambda r: r.pid, "share", 1),
            "filesystems": (columns.filesystem_columns(), lambda r: r.dev, "inside", 1),
            "throttled": (columns.throttled_columns(self.names), columns.throttled_key, "pause", 1),
            "mounts": (columns.mount_columns(self.names), _serial, None, 3),
        }[name]
        made, identity, sort, frozen = found
        return VirtualTable(made, identity, sort=sort, frozen=frozen, feed=sort is None,
                            id=f"{name}-table")

    def on_mount(self) -> None:
        """The first view."""
        self._arrange()

    # -- each tick -----------------------------------------------------------------------------

    def show(self, frame: Frame, history: History) -> None:
        """This tick's files: only what is in view is worked out."""
        self._frame, self._history = frame, history
        self.names.learn(frame)
        files = frame.files or Files()
        if self._threshold == files.threshold_ns:
            self._threshold = None
        self.query_one("#summary", Line).set(self._totals(files), self._probes(frame, files))
        for section in _SECTIONS[self.view]:
            getattr(self, f"_show_{section}")(frame, files, history)
        if self.query_one("#charts").display:
            self._show_hist(frame, files)
            self._show_heat(frame, files, history)

    def _totals(self, files: Files) -> list[Piece]:
        host = files.host or FileOps()
        pieces: list[Piece] = [(" ", "normal")]
        for value, text, size in (
                (host.reads_per_s, "rd/s ", host.read_bytes_per_s),
                (host.writes_per_s, "wr/s ", host.write_bytes_per_s)):
            pieces += [(fmt.rate(value), "strong"), (f" {text}", "dim"),
                       (fmt.size_rate(size), "normal"), ("  ", "dim")]
        pieces += [(fmt.rate(host.fsyncs_per_s), "strong"), (" fsync/s  ", "dim"),
                   (fmt.rate(host.opens_per_s), "strong"), (" opens/s  ", "dim"),
                   (fmt.rate(files.opens_failed_per_s),
                    "warn" if files.opens_failed_per_s else "dim"), (" failed  ", "dim"),
                   (fmt.number(host.inside), "strong"), (" in", "dim")]
        return pieces

    def _probes(self, frame: Frame, files: Files) -> list[Piece]:
        """What is attached, and its price."""
        if frame.files is None and frame.health.source == "bpf":
            return [(" one moment: the probes of this pane are being loaded", "dim")]
        if not files.watched:
            if any(p.name == "fs_exit" and p.status == "off" for p in frame.health.probes):
                return [(" syscall probes off: attached while somebody looks here, or records",
                         "dim")]
            return [(" " + why_missing(frame, "fs_exit", "no file operations"), "warn")]
        costs = [p.run_ns / p.runs for p in frame.health.probes
                 if p.name in ("fs_enter", "fs_exit") and p.run_ns is not None and p.runs]
        price = f" (mean {fmt.duration(sum(costs))} in our two programs)" if costs else ""
        pieces: list[Piece] = [
            (" probes on while you look: every syscall pays" + price, "dim")]
        if files.files_dropped:
            pieces.append((f"  {fmt.count(files.files_dropped)} old counts dropped", "dim"))
        lost = frame.health.lost_total
        if lost:
            pieces.append((f"  {fmt.grouped(lost)} events lost", "bad"))
        return pieces

    def _put(self, section: str, rows: list[Any], note: str, empty: str) -> None:
        table = self.query_one(f"#{section}-table", VirtualTable)
        table.empty = empty
        self.query_one(f"#{section}-rule", Rule).set(note=note)
        table.set_rows(rows)

    def _none(self, frame: Frame, files: Files, what: str) -> str:
        """Why a table of operations is empty."""
        if frame.files is None and frame.health.source == "bpf":
            return "one moment"
        if not files.watched:
            off = any(p.name == "fs_exit" and p.status == "off" for p in frame.health.probes)
            return "not known: nobody looked" if off else why_missing(
                frame, "fs_exit", "not known")
        if files.host is None or files.host.reads_per_s is None:
            return "one moment: it takes one full interval"
        return what

    def _show_files(self, frame: Frame, files: Files, _history: History) -> None:
        note = f"{len(files.rows)} in use"
        if files.rows_cut:
            note += f", {fmt.count(files.rows_cut)} less busy not shown"
        self._put("files", files.rows, note, self._none(frame, files, "no file was used"))

    def _show_processes(self, frame: Frame, files: Files, _history: History) -> None:
        note = f"{len(files.processes)} used files"
        if files.processes_cut:
            note += f", {fmt.count(files.processes_cut)} less busy not shown"
        self._put("processes", files.processes, note,
                  self._none(frame, files, "no process used a file"))

    def _feed(self, section: str, feed: Feed[Any], note: str, empty: str) -> None:
        """A feed's table is given its rows only when there are new ones."""
        found = feed.newest_first()
        newest = (id(feed), feed.serial, len(found))
        table = self.query_one(f"#{section}-table", VirtualTable)
        self.query_one(f"#{section}-rule", Rule).set(note=note)
        if table.empty != empty:
            table.empty = empty
            table.repaint()
        if self._fed.get(section) != newest:
            self._fed[section] = newest
            table.set_rows(found)

    def _show_slow(self, frame: Frame, files: Files, history: History) -> None:
        wanted = self._threshold if self._threshold is not None else files.threshold_ns
        limit = fmt.duration(wanted)
        note = f"{limit} and more, change: ( )   {fmt.count(files.slow_total)} in all"
        if files.slow_cut:
            note += f", {fmt.count(files.slow_cut)} not shown"
        self._feed("slow", history.files.slow, note, self._none(
            frame, files, f"no read, write or fsync took {limit} while somebody looked"))

    def _show_folds(self, frame: Frame, files: Files, _history: History) -> None:
        note = f"{fmt.count(files.folds_cut)} rarer not shown" if files.folds_cut else ""
        self._put("folds", files.folds, note, self._none(frame, files, "nothing was opened"))

    def _show_opens(self, frame: Frame, files: Files, history: History) -> None:
        note = f"{fmt.count(files.opens_cut)} only counted above" if files.opens_cut else ""
        self._feed("opens", history.files.opens, note,
                   self._none(frame, files, "nothing was opened"))

    def _show_fds(self, frame: Frame, files: Files, _history: History) -> None:
        note = f"host: {fmt.grouped(files.descriptors_host)} open files"
        leaks = sum(1 for row in files.descriptors if row.steady)
        if leaks:
            note = f"{leaks} growing steadily   {note}"
        if files.descriptors_cut:
            note += f", {fmt.count(files.descriptors_cut)} processes not shown"
        self._put("fds", files.descriptors, note,
                  "one moment" if frame.files is None else "none known")

    def _show_cache(self, _frame: Frame, files: Files, _history: History) -> None:
        cache = files.cache or PageCache()
        share = (100 * cache.dirty_bytes / cache.threshold_bytes
                 if cache.dirty_bytes is not None and cache.threshold_bytes else None)
        self.query_one("#cache-line", Line).set(
            [(" ", "normal"), (fmt.size(cache.dirty_bytes), "strong"), (" dirty ", "dim"),
             (fmt.pct(share) + "%", theme.load(share, 50, 90)), (" of the ", "dim"),
             (fmt.size(cache.threshold_bytes), "normal"), (" that hold writers back   ", "dim"),
             (fmt.size(cache.writeback_bytes), "strong"), (" being written", "dim")],
            [(" writing in the background starts at ", "dim"),
             (fmt.size(cache.background_bytes), "normal")])

    def _show_filesystems(self, frame: Frame, files: Files, _history: History) -> None:
        self._put("filesystems", files.filesystems, "",
                  self._none(frame, files, "no file was used"))

    def _show_throttled(self, _frame: Frame, files: Files, _history: History) -> None:
        rows = files.cache.throttled if files.cache else []
        section = self.query_one("#throttled")
        section.display = bool(rows)
        section.styles.height = min(len(rows), 4) + 2
        self._put("throttled", rows, "too much is dirty", "nobody")

    def _show_mounts(self, frame: Frame, files: Files, history: History) -> None:
        note = "" if files.watched else "from mountinfo only: by whom is not known"
        self._feed("mounts", history.files.mounts, note, "none since ktop runs")

    # -- charts --------------------------------------------------------------------------------

    def _ops(self, files: Files) -> tuple[FileOps, str]:
        """Whose histogram is in view: the host's unless a row is under the cursor."""
        if self._subject is not None:
            section, key = self._subject
            if section == "files":
                for row in files.rows:
                    if (row.dev, row.ino, row.generation) == key:
                        return row.ops, columns.tail(columns.file_name(row), 24)
                return FileOps(), "that file"
            for process in files.processes:
                if process.pid == key:
                    return process.ops, f"{process.comm} ({process.pid})"
            return FileOps(), f"process {key}"
        return files.host or FileOps(), ""

    def _show_hist(self, frame: Frame, files: Files) -> None:
        ops, whose = self._ops(files)
        op, found = dominant(ops)
        title = f"Latency of {op}s" + (f" of {cut(whose, 26)}" if whose else "")
        note = f"{fmt.grouped(hist.count(found))}" if found else ""
        self.query_one("#hist-rule", Rule).set(title, note)
        self.query_one(Histogram).show(found, self._none(frame, files, "nothing in this interval"),
                                       of=(op, self._subject))

    def _show_heat(self, frame: Frame, files: Files, history: History) -> None:
        heatmap = self.query_one(Heatmap)
        op, _ = dominant(self._ops(files)[0])
        # the first minute is shown large: in an incident nobody waits for five
        first = next((tick.at_ns for tick in history.ticks if tick.files), None)
        young = first is None or history.ticks[-1].at_ns - first < MINUTE_NS
        span = MINUTE_NS if young else SPAN_NS
        found = history.file_columns(op, heatmap.columns, span)
        known = [h for h in found if h is not None]
        note = ""
        if known:
            note = f"host, P99 {fmt.duration(hist.percentile(hist.merge(known), 99))}"
        when = "minute" if young else "5 minutes"
        self.query_one("#heat-rule", Rule).set(f"{op.capitalize()}s, the last {when}", note)
        heatmap.show(found, span, self._none(frame, files, "nothing yet"))

    def on_virtual_table_highlighted(self, message: VirtualTable.Highlighted) -> None:
        """The histogram follows the cursor."""
        section = str(message.table.id).removesuffix("-table")
        if section not in ("files", "processes"):
            return
        if message.key is not None:
            self._subject = (section, message.key)
        elif self._subject is not None and self._subject[0] == section:
            self._subject = None
        if self._frame is not None and self.query_one("#charts").display:
            self._show_hist(self._frame, self._frame.files or Files())

    # -- layout --------------------------------------------------------------------------------

    def on_resize(self, _event: events.Resize) -> None:
        """Another size may have room for more, or less."""
        self._arrange()

    def _arrange(self) -> None:
        shown = _SECTIONS[self.view]
        for section in (*_TABLES, "cache"):
            self.query_one(f"#{section}").display = section in shown
        self.query_one("#throttled").display = False
        self.query_one("#charts").display = (
            self.view in _CHARTED and self.size.width >= WIDE and self.size.height >= HIGH)
        if self._frame is not None and self._history is not None:
            # sizes are known after the layout: the charts ask for their width
            self.call_after_refresh(self.show, self._frame, self._history)
        if self.is_attached and self.has_focus_within:
            focused = self.screen.focused
            if focused is None or not in_view(focused, self):
                self.focus_main()

    # -- keys ----------------------------------------------------------------------------------

    def action_view(self) -> None:
        """The next view."""
        self.view = VIEWS[(VIEWS.index(self.view) + 1) % len(VIEWS)]
        self._subject = None
        self._arrange()
        self.focus_main()

    def action_other(self) -> None:
        """The next table in view."""
        tables = self.tables()
        if tables:
            at = next((i for i, table in enumerate(tables) if table.has_focus), -1)
            tables[(at + 1) % len(tables)].focus()

    def action_threshold(self, step: int) -> None:
        """Half or twice what counts as slow."""
        now = self._threshold
        if now is None:
            now = self._frame.files.threshold_ns if self._frame and self._frame.files else None
        if now is None:
            return
        wanted = now * 2 if step > 0 else now // 2
        self._threshold = max(THRESHOLD_MIN_NS, min(THRESHOLD_MAX_NS, wanted))
        self.post_message(self.Ask(Control(thresholds={"files": self._threshold})))
        if self._frame is not None and self._history is not None:
            self.show(self._frame, self._history)

    def on_descendant_focus(self) -> None:
        """The rules say where the focus is."""
        self._rules()

    def on_descendant_blur(self) -> None:
        """The rules say where the focus is."""
        self._rules()

    def _rules(self) -> None:
        for section in _TABLES:
            focused = self.query_one(f"#{section}-table", VirtualTable).has_focus
            self.query_one(f"#{section}-rule", Rule).set(active=focused)

    # -- help ----------------------------------------------------------------------------------

    def help_text(self) -> str:
        """What every figure of this pane means."""
        return "\n".join([
            paragraph("""Reads, writes, fsyncs and opens of regular files on any filesystem (FUSE
                and NFS included; proc and sysfs shown as such), timed from entry to exit of the
                system call: what is buffered or asynchronous and returns at once is not slow.
                Sockets, pipes, terminals and devices are not files here. Not seen: mmap, io_uring,
                sendfile, splice, copy_file_range, msync, 32-bit processes. The probes cost every
                system call of the host a little, so they are attached only while this pane is
                looked at or recorded. Percentiles are of this interval, exact to a quarter of an
                octave. v goes to the next view, o to the next table in it, ( and ) halve and
                double what counts as slow."""),
            "", "Files and processes; files with the cursor show their own histogram",
            column_help(columns.file_columns()),
            "", "Processes", column_help([c for c in columns.process_columns(self.names)
                                          if c.key in ("pid", "cgroup", "command")]),
            "", "Slow operations", column_help(columns.slow_columns(self.names)),
            "", paragraph("""Opens: all of them are counted, by command, path and result. The
                feed below shows at most 1,000 a second. Paths are as the program wrote
                them: symbolic links and .. stay, a relative path is behind its directory."""),
            column_help(columns.fold_columns()),
            "", "Opens one by one", column_help(columns.open_columns(self.names)),
            "", "Open descriptors (every two seconds, also while nobody looks)",
            column_help(columns.descriptor_columns(self.names)),
            "", "Filesystems", column_help([c for c in columns.filesystem_columns()
                                            if c.key in ("fs", "source", "path")]),
            "", "Writers held back", column_help(columns.throttled_columns(self.names)),
            "", "Mounts", column_help(columns.mount_columns(self.names)),
        ])


def _serial(fed: Any) -> int:
    serial: int = fed.serial
    return serial


def dominant(ops: FileOps) -> tuple[str, Hist | None]:
    """The operation on which most time is spent, and its histogram."""
    found: list[tuple[str, Hist | None]] = [
        ("read", ops.read), ("write", ops.write), ("fsync", ops.fsync)]
    return max(found, key=lambda item: item[1].sum_ns if item[1] else -1)
