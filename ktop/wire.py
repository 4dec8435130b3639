"""The stream between collector and reader: frames and words, as length-prefixed msgpack.

Each message is a type byte, a big-endian 32-bit length and the body. The same bytes go through a
socket, a pipe or ssh. Readers bound what they believe: a length past MAX_BYTES is a broken stream.
"""

from __future__ import annotations

import struct

import msgspec

from ktop import __version__
from ktop.model import SCHEMA, Frame

HEADER = struct.Struct("!cI")
MAX_BYTES = 256 << 20
FRAME, ERROR, CONTROL, HELLO = b"F", b"E", b"C", b"H"
GREETING = b"ktop stream; "  # what a hello's body begins with: found behind a talkative login shell


class WireError(Exception):
    """The stream is not what a collector of this version writes. One line for the user."""


class Profile(msgspec.Struct, omit_defaults=True):
    """Call stacks wanted: of which processes or cgroups (both empty: the host), for how long.

    Descendants of the cgroups belong to them. children: so do those of the processes, those born
    meanwhile too. kinds: `cpu`, `off`; empty: both. seconds 0: end what is running; when it has
    ended, forget its result.
    """

    pids: list[int] = []
    cgroups: list[int] = []
    kinds: list[str] = []
    seconds: float = 0.0
    children: bool = False


class Control(msgspec.Struct, omit_defaults=True):
    """From reader to collector: change the interval (ns), say which layers are looked at, or end.

    `watch` names layers (`processes`, `sched`...) whose on-demand probes are to be attached; all
    others are detached. thresholds: what counts as slow, ns by layer (`files`, `block`). profile:
    begin or end taking stacks. detail: the pid whose `Frame.detail` is wanted, 0 for nobody's. None
    leaves things as they are. got: how many frames of this stream have arrived (`ktop collect
    --packed` keeps no more than a little on its way).
    """

    interval_ns: int | None = None
    watch: list[str] | None = None
    thresholds: dict[str, int] | None = None
    quit: bool = False
    profile: Profile | None = None
    detail: int | None = None
    got: int | None = None


_frame_encoder = msgspec.msgpack.Encoder()
_frame_decoder = msgspec.msgpack.Decoder(Frame)
_control_decoder = msgspec.msgpack.Decoder(Control)


def message(kind: bytes, body: bytes) -> bytes:
    """A whole message of any kind."""
    return HEADER.pack(kind, len(body)) + body


def encode_body(frame: Frame) -> bytes:
    """A frame as it travels and as it is kept, without a header.

    Raises WireError when sums over what another host said have outgrown 64 bits.
    """
    try:
        return _frame_encoder.encode(frame)
    except OverflowError:
        raise WireError("a figure of this frame is beyond 64 bits") from None


def decode_body(body: bytes) -> Frame:
    """The frame in a body. Raises WireError when it is none, or of another schema."""
    try:
        frame = _frame_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise WireError(f"a broken frame: {err}") from None
    if frame.schema != SCHEMA:
        raise WireError(f"frames of schema {frame.schema}, this ktop reads {SCHEMA}")
    if frame.stacks is not None:
        known = len(frame.stacks.names)
        for stack in frame.stacks.stacks:
            if stack.names and not 0 <= min(stack.names) <= max(stack.names) < known:
                raise WireError("a broken frame: a stack of functions that it does not name")
    return frame


def encode_frame(frame: Frame) -> bytes:
    """A whole message holding a frame."""
    return message(FRAME, encode_body(frame))


def encode_error(text: str) -> bytes:
    """A whole message holding the collector's last words."""
    return message(ERROR, text.encode())


def encode_control(control: Control) -> bytes:
    """A whole message holding a control."""
    return message(CONTROL, _frame_encoder.encode(control))


def encode_hello() -> bytes:
    """The first message of a stream that leaves this host: who speaks."""
    return message(HELLO, GREETING + f"version {__version__}; schema {SCHEMA}".encode())


def check_hello(body: bytes) -> None:
    """Raises WireError when whoever says this hello writes other frames than we read."""
    words = body.removeprefix(GREETING)[:200].decode("ascii", "replace").split("; ")
    said = dict(word.split(" ", 1) for word in words if " " in word)
    if not body.startswith(GREETING) or "schema" not in said:
        raise WireError("not a ktop stream")
    if said["schema"] != str(SCHEMA):
        raise WireError(f"it is ktop {said.get('version', 'of unknown version')} with frames of "
                        f"schema {said['schema']}, this is {__version__} and reads {SCHEMA}: "
                        "install the same version at both ends")


class Reader:
    """Turns bytes as they come into messages. Text of an error message comes as `str`.

    bodies: of the frames that the last `feed` gave, in step with them: to keep without encoding.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.bodies: list[bytes] = []

    def feed(self, data: bytes) -> list[Frame | Control | str]:
        """What `data` completes. Raises WireError on anything that no collector writes."""
        self._buffer += data
        self.bodies = []
        found: list[Frame | Control | str] = []
        while len(self._buffer) >= HEADER.size:
            kind, length = HEADER.unpack_from(self._buffer)
            if kind not in (FRAME, ERROR, CONTROL, HELLO) or length > MAX_BYTES:
                raise WireError("not a ktop stream")
            end = HEADER.size + length
            if len(self._buffer) < end:
                break
            body = bytes(memoryview(self._buffer)[HEADER.size:end])
            del self._buffer[:end]
            if kind == HELLO:
                check_hello(body)
                continue
            found.append(_decode(kind, body))
            if kind == FRAME:
                self.bodies.append(body)
        return found


def _decode(kind: bytes, body: bytes) -> Frame | Control | str:
    if kind == FRAME:
        return decode_body(body)
    if kind == ERROR:
        return body.decode("utf-8", "replace")
    try:
        return _control_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as err:
        raise WireError(f"a broken control: {err}") from None
