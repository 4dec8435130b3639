"""The process tree: a tiny supervisor, the collector (root) and the UI (the invoking user).

The supervisor imports nothing heavy, forks the collector first so that the BPF compile and the
import of Textual overlap, and then only waits. It outlives the other two, so it is the one who
puts the terminal right after a UI that was killed, who starts a new collector when the UI asks for
one, and who sees to it that no process is left.

    supervisor ── SEQPACKET ── UI          "restart" / "new" + two descriptors / "dead <why>"
    collector  ── STREAM    ── UI          ktop/wire.py

The UI never waits for the supervisor, nor the supervisor for the UI.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from ktop import capabilities, terminal
from ktop.privileges import die_with_parent, drop_privileges

if TYPE_CHECKING:
    from ktop.config import Settings
    from ktop.scope import Scope

# Told to end: what the UI, and then the collector, get before they are killed.
GRACE_S = 3.0
HEADLESS_GRACE_S = 30.0  # a recorder may have to wait for a disk
RESTART, NEW, DEAD = b"restart", b"new", b"dead "
GARBAGE = 10_000  # new objects, more than a tick keeps, after which garbage is looked for
ENDING = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class Options(NamedTuple):
    """What the command line asks of a live session. None: find out."""

    interval_ns: int = 1_000_000_000
    bpf: bool = True
    ascii: bool | None = None
    mouse: bool | None = None
    scope: Scope | None = None  # what the UI starts drilled into
    limits: tuple[str, ...] = ()  # what volumes are sold as: ktop.collect.block_limits reads them
    settings: Settings | None = None  # the config file, read before privileges are given up
    host: str = ""  # where the collector runs, as ssh knows it; empty: here


class Session(NamedTuple):
    """What the UI is handed: the collector's stream and log, and the line to the supervisor.

    stream: None where there is no collector.
    """

    options: Options
    stream: socket.socket | None
    log: int
    control: socket.socket


Collect = Callable[[socket.socket, Options], int]
Interface = Callable[[Session], int]


def collect_live(sock: socket.socket, options: Options) -> int:
    """The real collector."""
    gc.set_threshold(GARBAGE)
    capabilities.become_collector()
    from ktop.collect.main import Options as CollectOptions
    from ktop.collect.main import serve

    return serve(sock, CollectOptions(interval_ns=options.interval_ns, bpf=options.bpf,
                                      limits=options.limits))


def interface_live(session: Session) -> int:
    """The real UI. Nothing of what it imports is garbage or will be: it is not looked through. And
    what a tick makes is mostly gone by itself when it is: garbage is looked for less often.

    asyncio works without OpenSSL, which is 4 MB that nobody here would use.
    """
    gc.disable()
    sys.modules.setdefault("ssl", None)  # type: ignore[arg-type]  # importing it fails
    from ktop.app import main

    gc.freeze()
    gc.set_threshold(GARBAGE)
    gc.enable()
    return main(session)


def signal_name(number: int) -> str:
    """SIGKILL for 9."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def run(options: Options, collect: Collect | None = collect_live,
        interface: Interface = interface_live) -> int:
    """A session from start to end; the exit status for the shell. collect: None for a replay."""
    if problem := terminal.refusal():
        print(f"ktop: {problem}", file=sys.stderr)
        return 2
    return Supervisor(options, collect, interface).run()


class Supervisor:
    """Parent of both processes. One thread, one loop: signals and the UI's requests."""

    def __init__(self, options: Options, collect: Collect | None, interface: Interface,
                 headless: bool = False) -> None:
        """headless: the interface draws nothing, and a signal is its ordinary end."""
        self.options = options
        self._headless = headless
        self._collect = collect
        self._interface = interface
        self._saved = terminal.attributes()
        self._collectors: dict[int, bool] = {}  # pid: is it the one the UI is connected to
        self._ui = 0
        self._ui_status: int | None = None
        self._ending = 0  # the signal that told us to end
        self._deadline: float | None = None
        self._killed = False  # the UI hung and was killed, wherever it was
        self._wake, wake_write = socket.socketpair()
        self._control, self._ui_control = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._wake, wake_write, self._control):
            end.setblocking(False)
        self._wake_write = wake_write

    def run(self) -> int:
        """Start both, wait for the UI to end, end the collector."""
        signals = (*ENDING, signal.SIGCHLD)
        before = {number: signal.getsignal(number) for number in (*signals, signal.SIGTTOU)}
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in signals:
            signal.signal(number, self._noted)
        # The terminal is ours to put right even when a shell has taken the foreground.
        signal.signal(signal.SIGTTOU, signal.SIG_IGN)
        try:
            if self._collect is None:
                self._start_ui(None, os.memfd_create("ktop-no-log"))
            else:
                self._start_ui(*self._start_collector(self._collect))
            # to start another collector, and to signal all; programs it starts none
            capabilities.keep_only(capabilities.SUPERVISOR, no_new_privs=False)
            while self._ui_status is None:
                self._turn()
            return self._conclude(self._ui_status)
        finally:
            self._kill_ui()
            self._control.close()
            self._end_collectors()
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            self._wake.close()
            self._wake_write.close()

    # -- starting ----------------------------------------------------------------------------

    def _fork(self) -> int:
        """fork(2) with signals held back, so that none runs our handlers in the child."""
        held = signal.pthread_sigmask(signal.SIG_BLOCK, (*ENDING, signal.SIGCHLD))
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            signal.set_wakeup_fd(-1)
            for number in (*ENDING, signal.SIGCHLD, signal.SIGTTOU):
                signal.signal(number, signal.SIG_DFL)
            self._wake.close()
            self._wake_write.close()
            self._control.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return pid

    def _start_collector(self, collect: Collect) -> tuple[socket.socket, int]:
        """Fork a collector. The UI's end of its stream, and its log (stdout and stderr)."""
        ours, theirs = socket.socketpair()
        log = os.memfd_create("ktop-collector-log")
        parent = os.getpid()
        pid = self._fork()
        if not pid:
            ours.close()
            self._ui_control.close()
            _child(lambda: self._collector_child(collect, theirs, log, parent))
        theirs.close()
        if (handed_over := getattr(collect, "handed_over", None)) is not None:
            handed_over()  # a connection made before the fork is the collector's alone
        self._collectors = dict.fromkeys(self._collectors, False) | {pid: True}
        return ours, log

    def _collector_child(self, collect: Collect, sock: socket.socket, log: int,
                         parent: int) -> int:
        os.setsid()  # so that Ctrl-C and the terminal's SIGHUP are not for us
        null = os.open(os.devnull, os.O_RDONLY)
        for descriptor, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        os.close(null)
        os.close(log)
        die_with_parent(parent)
        return collect(sock, self.options)

    def _start_ui(self, stream: socket.socket | None, log: int) -> None:
        parent = os.getpid()
        self._ui = self._fork()
        if not self._ui:
            session = Session(self.options, stream, log, self._ui_control)
            _child(lambda: self._ui_child(session, parent))
        if stream is not None:
            stream.close()
        os.close(log)
        self._ui_control.close()

    def _ui_child(self, session: Session, parent: int) -> int:
        if session.options.ascii is None:  # while /proc/self is still ours to read
            session = session._replace(
                options=session.options._replace(ascii=terminal.ascii_only()))
        errors = os.dup(2) if self._headless else _stderr_on_terminal()
        drop_privileges()
        die_with_parent(parent)  # after the change of user, which clears it
        try:
            return self._interface(session)
        except Exception as err:
            _tell(errors, f"ktop: the {self._what} broke", err)
            return 1

    # -- waiting -----------------------------------------------------------------------------

    def _noted(self, number: int, _frame: object) -> None:
        """Signal handler: the wakeup descriptor has ended the select, the loop does the rest."""
        if number in ENDING and not self._ending:
            self._ending = number

    def _turn(self) -> None:
        """Wait for something and deal with it."""
        timeout = None if self._deadline is None else max(0, self._deadline - time.monotonic())
        ready, _, _ = select.select([self._wake, *self._open_control()], [], [], timeout)
        if self._wake in ready:
            with contextlib.suppress(BlockingIOError):
                while self._wake.recv(4096):
                    pass
        if self._control in ready:
            self._request()
        self._reap()
        if self._ui_status is not None:
            return
        if self._ending and self._deadline is None:
            self._deadline = time.monotonic() + (HEADLESS_GRACE_S if self._headless else GRACE_S)
            self._signal_ui(self._ending)
        elif self._deadline is not None and time.monotonic() >= self._deadline:
            self._killed = True
            self._signal_ui(signal.SIGKILL)
            self._deadline += GRACE_S

    def _open_control(self) -> list[socket.socket]:
        return [self._control] if self._control.fileno() >= 0 else []

    def _request(self) -> None:
        try:
            word = self._control.recv(64)
        except BlockingIOError:
            return
        except OSError:
            word = b""
        if not word:
            self._control.close()
        elif word == RESTART and not self._ending and self._collect is not None:
            self._restart(self._collect)

    def _restart(self, collect: Collect) -> None:
        """Fork another collector and pass its stream and its log to the UI."""
        for pid in self._collectors:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
                os.kill(pid, signal.SIGCONT)  # a stopped process takes no signal
        stream, log = self._start_collector(collect)
        try:
            socket.send_fds(self._control, [NEW], [stream.fileno(), log])
        except OSError:
            pass  # the UI is on its way out; the collector sees the end of its stream
        finally:
            stream.close()
            os.close(log)

    def _reap(self) -> None:
        """Take note of every child that ended or stopped."""
        events = os.WEXITED | os.WSTOPPED | os.WNOHANG | os.WNOWAIT
        while True:
            try:
                child = os.waitid(os.P_ALL, 0, events)
            except ChildProcessError:
                return
            if child is None:
                return
            if child.si_pid in self._collectors:
                _end_group(child.si_pid, child.si_code)
            pid, status = os.waitpid(child.si_pid, os.WUNTRACED)
            if pid == self._ui and os.WIFSTOPPED(status):
                self._stop()
            elif pid == self._ui:
                self._ui_status = status
            elif not os.WIFSTOPPED(status) and self._collectors.pop(pid, False):
                with contextlib.suppress(OSError):
                    self._control.send(DEAD + _ended(status).encode())

    def _stop(self) -> None:
        """The UI stopped (Ctrl-Z, or a SIGSTOP from outside): so do we, for the shell to notice.

        SIGTSTP and not SIGSTOP: without a shell that could bring us back (an orphaned process
        group) the kernel ignores it, and the UI goes on at once.
        """
        self._put_right()
        if not self._ending:
            signal.signal(signal.SIGTSTP, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTSTP)
        self._signal_ui(signal.SIGCONT)

    def _signal_ui(self, number: int) -> None:
        if self._ui and self._ui_status is None:
            os.kill(self._ui, number)  # not reaped yet, so the pid is still its own
            os.kill(self._ui, signal.SIGCONT)  # a stopped process takes no signal

    # -- ending ------------------------------------------------------------------------------

    def _conclude(self, status: int) -> int:
        """The UI is gone: is the terminal as it was? The exit status."""
        if os.WIFSIGNALED(status):
            self._put_right(force=self._killed)
            number = os.WTERMSIG(status)
            if not self._ending:
                self._say(f"ktop: the {self._what} was ended by {signal_name(number)}" +
                          ("" if self._headless else "; the terminal is restored"))
            return 128 + (self._ending or number)
        self._put_right()
        if self._ending and not self._headless:
            return 128 + self._ending
        return os.WEXITSTATUS(status)

    @property
    def _what(self) -> str:
        return "recorder" if self._headless else "interface"

    def _put_right(self, force: bool = False) -> None:
        """Restore the terminal, unless the UI has done it or had not yet begun (settings tell).

        Leaving an alternate screen that was never entered would move the cursor.
        """
        now = terminal.attributes()
        if force or (now is not None and now != self._saved):
            terminal.restore(self._saved)

    @staticmethod
    def _say(line: str) -> None:
        with contextlib.suppress(OSError):
            print(line, file=sys.stderr, flush=True)

    def _kill_ui(self) -> None:
        """Only when the supervisor itself broke: the UI is ended and the terminal restored."""
        if not self._ui or self._ui_status is not None:
            return
        os.kill(self._ui, signal.SIGKILL)
        os.waitpid(self._ui, 0)
        terminal.restore(self._saved)

    def _end_collectors(self) -> None:
        """The end of its stream ends a collector. One that does not see it is told, then killed."""
        for number in (0, signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + GRACE_S
            for pid in self._collectors if number else ():
                os.kill(pid, number)
                os.kill(pid, signal.SIGCONT)
            while self._collectors and (time.monotonic() < deadline or number == signal.SIGKILL):
                for pid in [pid for pid in self._collectors if _is_over(pid)]:
                    _end_group(pid, os.CLD_EXITED)
                    os.waitpid(pid, 0)
                    del self._collectors[pid]
                if self._collectors:
                    select.select([self._wake], [], [], 0.1)
                    with contextlib.suppress(BlockingIOError):
                        self._wake.recv(4096)


def _end_group(pid: int, code: int) -> None:
    """End what an ended collector left behind: as long as it is a zombie its group is its own."""
    if code != os.CLD_STOPPED:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)


def _is_over(pid: int) -> bool:
    """Has the child ended (it stays a zombie)?"""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _ended(status: int) -> str:
    """How a process ended, in words."""
    if os.WIFSIGNALED(status):
        return f"killed by {signal_name(os.WTERMSIG(status))}"
    return f"exit status {os.WEXITSTATUS(status)}"


def _child(body: Callable[[], int]) -> NoReturn:
    """Run a child to its end; it never returns into the supervisor's code."""
    status = 1
    try:
        status = body()
    except SystemExit as err:
        status = err.code if isinstance(err.code, int) else int(err.code is not None)
    except KeyboardInterrupt:
        status = 130
    except BaseException as err:
        _tell(2, "ktop", err)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        # No interpreter shutdown: a thread in a blocked write must not hold us.
        os._exit(status & 0xFF)


def _tell(descriptor: int, what: str, err: BaseException) -> None:
    """One line about a bug, even when nothing can be imported any more."""
    try:
        from ktop import crash

        line = crash.report(what, err)
    except Exception:
        line = f"{what}: {type(err).__name__}: {str(err)!a}"
    with contextlib.suppress(OSError):
        os.write(descriptor, f"{line}\n".encode(errors="backslashreplace"))


def _stderr_on_terminal() -> int:
    """Textual draws on stderr: with `2>log` that has to be the terminal again.

    Returns a descriptor for what is really meant for stderr.
    """
    errors = os.dup(2)
    if not os.isatty(2):
        try:
            tty = os.open(os.ttyname(1), os.O_RDWR | os.O_NOCTTY)
        except OSError:
            tty = os.dup(1)  # a terminal without a name in this mount namespace
        os.dup2(tty, 2)
        os.close(tty)
    return errors
