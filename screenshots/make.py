"""Draw screenshots/*.svg and *.png from the recorded sessions: `make screenshots`.

PNGs need rsvg-convert (librsvg2-bin) and DejaVu Sans Mono (fonts-dejavu-core); without them there
are SVGs only.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from ktop import theme
from screenshots.png import shrink
from tests.session import INCIDENTS, SessionApp, incident, play, still

HERE = Path(__file__).parent
SIZE = (120, 40)
SESSION = {"processes": ["1"], "files": ["2"], "tcp": ["3"], "block": ["4"], "scheduler": ["5"],
           "help": ["3", "question_mark"]}
FONT = "DejaVu Sans Mono"
# A cell in Rich's SVG is 12.2 wide; a character of this font is 0.60205 em: at this size they are
# the same, and what a renderer does that knows no textLength is right too.
FONT_SIZE = 12.2 / 0.60205


async def draw(app: SessionApp, keys: list[str]) -> str:
    """The picture after these keys, as SVG."""
    async with app.run_test(size=SIZE) as pilot:
        await still(pilot, *keys)
        return app.export_screenshot(title="ktop", simplify=True)


def portable(svg: str, name: str) -> str:
    """The same without fonts from the net, with columns that stay columns in any renderer."""
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: (?:Fira Code|arial)\b", f'font-family: "{FONT}"', svg)
    svg = svg.replace("font-size: 20px", f"font-size: {FONT_SIZE:.3f}px")
    svg = re.sub(r"\bterminal-\d+-", f"{name}-", svg)
    return svg.replace("<svg ", '<svg xml:space="preserve" ', 1)


def main() -> int:
    """All pictures."""
    os.environ["TZ"] = "UTC"
    time.tzset()
    theme.use_color(True)
    convert = shutil.which("rsvg-convert")
    if convert is None:
        print("no rsvg-convert: no PNGs (apt-get install librsvg2-bin)", file=sys.stderr)
    total = 0
    pictures = {**{name: (play, keys) for name, keys in SESSION.items()},
                **{name: (functools.partial(incident, which, second), keys)
                   for name, (which, second, keys) in INCIDENTS.items()}}
    for name, (make, keys) in pictures.items():
        svg = HERE / f"{name}.svg"
        svg.write_text(portable(asyncio.run(draw(make(), keys)), name))
        total += svg.stat().st_size
        if convert is not None:
            png = svg.with_suffix(".png")
            subprocess.run([convert, "-o", png, svg], check=True)
            png.write_bytes(shrink(png.read_bytes()))
            total += png.stat().st_size
    print(f"{len(pictures)} pictures, {total:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
