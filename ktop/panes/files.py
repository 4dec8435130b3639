"""Files: who reads and writes what and how long it takes; slow operations, opens, descriptors."""

from __future__ import annotations

from typing import Any, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container

from ktop import format as fmt
from ktop import hist, theme
from ktop.model import Files, Frame, Hist
from ktop.model_files import FileOps, PageCache
from ktop.panes import files_columns as columns
from ktop.panes.base import column_help, paragraph, why_missing
from ktop.panes.views import SlowPane, chart_span, view_keys
from ktop.widgets.heatmap import Heatmap
from ktop.widgets.histogram import Histogram
from ktop.widgets.strips import Line, Piece, Rule, cut
from ktop.widgets.table import VirtualTable

VIEWS = {"files": ("files",), "processes": ("processes",), "slow": ("slow",),
         "opens": ("folds", "opens"), "fds": ("fds",),
         "mounts": ("cache", "filesystems", "throttled", "mounts")}


class FilesPane(SlowPane):
    """Six views of the files layer; `v` goes on to the next.

    With the cursor on a file or a process the histogram is that one's; Escape gives the host's.
    """

    title = "Files"
    key = "2"
    layer = "files"
    BINDINGS: ClassVar[list[BindingType]] = [
        *view_keys("files", "Files, processes, slow operations, opens, descriptors, mounts"),
        Binding("left_parenthesis", "threshold(-1)", "Slow: half", show=False, key_display="(",
                id="files.threshold_down", tooltip="Half the time from which an operation is slow"),
        Binding("right_parenthesis", "threshold(1)", "Slow: double", show=False, key_display=")",
                id="files.threshold_up", tooltip="Twice the time from which an operation is slow"),
    ]
    BIG = (100, 30)
    views = VIEWS
    big_views: ClassVar = {name: (name, "hist", "heat") for name in ("files", "processes", "slow")}
    titles: ClassVar = {
        "files": "Files", "processes": "Processes", "slow": "Slow operations",
        "folds": "Opens a minute, folded", "opens": "Opens", "fds": "Open descriptors",
        "cache": "Page cache", "filesystems": "Filesystems", "throttled": "Writers held back",
        "mounts": "Mounts", "hist": "", "heat": ""}
    groups: ClassVar = {"charts": ("hist", "heat")}
    subjects = ("files", "processes")
    followers = ("hist",)
    finest_ns = least_ns = 10_000
    DEFAULT_CSS = """
    FilesPane #summary { height: 2; }
    FilesPane #body { layout: vertical; }
    FilesPane #folds { height: 2fr; }
    FilesPane #cache { height: 3; }
    FilesPane #cache-line { height: 2; }
    FilesPane #filesystems { height: 2fr; }
    FilesPane #charts { layout: horizontal; width: 1fr; height: 13; }
    FilesPane #hist { margin: 0 1 0 0; }
    """

    def compose(self) -> ComposeResult:
        """A summary, the sections of all views, and two charts."""
        yield Line(id="summary")
        with Container(id="body"):
            for name in list(self.titles)[:-2]:
                yield self._section(name, Line(id="cache-line") if name == "cache" else
                                    self._table(name))
            with Container(id="charts"):
                yield self._section("hist", Histogram(id="histogram"))
                yield self._section("heat", Heatmap(id="heatmap"))

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

    # -- each tick -----------------------------------------------------------------------------

    def _about(self, frame: Frame) -> tuple[Frame, Files]:
        return frame, frame.files or Files()

    def _summary(self, frame: Frame, files: Files) -> list[list[Piece]]:
        return [self._totals(files), self._probes(frame, files)]

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
                return [(" syscall probes were off: attached while somebody looks here, or records",
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

    def _show_files(self, frame: Frame, files: Files) -> None:
        note = f"{len(files.rows)} in use"
        if files.rows_cut:
            note += f", {fmt.count(files.rows_cut)} less busy not shown"
        self._fill("files", files.rows, self._none(frame, files, "no file was used"), note)

    def _show_processes(self, frame: Frame, files: Files) -> None:
        note = f"{len(files.processes)} used files"
        if files.processes_cut:
            note += f", {fmt.count(files.processes_cut)} less busy not shown"
        self._fill("processes", files.processes,
                   self._none(frame, files, "no process used a file"), note)

    def _show_slow(self, frame: Frame, files: Files) -> None:
        limit = fmt.duration(self._slow_ns() or files.threshold_ns)
        note = f"{limit} and more, change: ( )   {fmt.count(files.slow_total)} in all"
        if files.slow_cut:
            note += f", {fmt.count(files.slow_cut)} not shown"
        self._feed("slow", self._history.feeds.slow_ops, self._none(
            frame, files, f"no read, write or fsync took {limit} while somebody looked"), note)

    def _show_folds(self, frame: Frame, files: Files) -> None:
        note = f"{fmt.count(files.folds_cut)} rarer not shown" if files.folds_cut else ""
        self._fill("folds", files.folds, self._none(frame, files, "nothing was opened"), note)

    def _show_opens(self, frame: Frame, files: Files) -> None:
        note = f"{fmt.count(files.opens_cut)} only counted above" if files.opens_cut else ""
        self._feed("opens", self._history.feeds.opens,
                   self._none(frame, files, "nothing was opened"), note)

    def _show_fds(self, frame: Frame, files: Files) -> None:
        note = f"host: {fmt.grouped(files.descriptors_host)} open files"
        leaks = sum(1 for row in files.descriptors if row.steady)
        if leaks:
            note = f"{leaks} growing steadily   {note}"
        if files.descriptors_cut:
            note += f", {fmt.count(files.descriptors_cut)} processes not shown"
        self._fill("fds", files.descriptors,
                   "one moment" if frame.files is None else "none known", note)

    def _show_cache(self, _frame: Frame, files: Files) -> None:
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

    def _show_filesystems(self, frame: Frame, files: Files) -> None:
        self._fill("filesystems", files.filesystems,
                   self._none(frame, files, "no file was used"))

    def _show_throttled(self, _frame: Frame, files: Files) -> None:
        rows = files.cache.throttled if files.cache else []
        self.query_one("#throttled").display = bool(rows)
        self._fix_height("throttled", min(len(rows), 4) + 2)
        self._fill("throttled", rows, "nobody", "too much is dirty")

    def _show_mounts(self, frame: Frame, files: Files) -> None:
        note = "" if files.watched else "from mountinfo only: by whom is not known"
        self._feed("mounts", self._history.feeds.mounts, "none so far", note)

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

    def _show_heat(self, frame: Frame, files: Files) -> None:
        heatmap = self.query_one(Heatmap)
        op, _ = dominant(self._ops(files)[0])
        span, when = chart_span(self._history, lambda tick: tick.files)
        found = self._history.file_columns(op, heatmap.columns, span)
        known = [h for h in found if h is not None]
        note = ""
        if known:
            note = f"host, P99 {fmt.duration(hist.percentile(hist.merge(known), 99))}"
        self.query_one("#heat-rule", Rule).set(f"{op.capitalize()}s, the last {when}", note)
        heatmap.show(found, span, self._none(frame, files, "nothing yet"))

    # -- keys ----------------------------------------------------------------------------------

    def _told_ns(self, frame: Frame) -> int | None:
        return frame.files.threshold_ns if frame.files else None

    def _arrange(self) -> None:
        super()._arrange()
        self.query_one("#throttled").display = False  # until there are some

    def action_view(self, step: int = 1) -> None:
        """The next view; each begins with the host."""
        self._subject = None
        super().action_view(step)

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
