"""A console whose reader may go away: a closed pipe or terminal, or a full disk under it. The work goes on."""

from __future__ import annotations

import errno
import os
import unicodedata
from contextlib import suppress
from typing import Any

from rich.console import Console, ConsoleRenderable, RenderableType
from rich.live import Live
from rich.segment import Segment
from rich.text import Text

GONE = frozenset({errno.EPIPE, errno.EIO})


class ResizableLive(Live):
    """Live, also where the terminal becomes narrower and breaks the lines that stand there, so that they are more."""

    _width: int | None = None
    _drawn: RenderableType = ""  # what stands there

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Take the broken lines into account before they are replaced."""
        before, self._width = self._width, self.console.width
        shape = getattr(self._live_render, "_shape", None)
        if before is not None and self._width < before and shape is not None and not self._alt_screen:
            self._live_render._shape = (shape[0], max(shape[1], self._lines_now(before, self._width)))
        self._drawn = self.renderable
        return super().process_renderables(renderables)

    def stop(self) -> None:
        """End with an empty view: rich draws a last one whole, of which a low terminal keeps what does not fit."""
        if self.transient and not self._alt_screen:
            self._get_renderable = _nothing
        super().stop()

    def _lines_now(self, before: int, now: int) -> int:
        lines = self.console.render_lines(self._drawn, self.console.options.update_width(before), pad=False)
        return sum(max(1, -(-Segment.get_line_length(line) // now)) for line in lines)


def _nothing() -> Text:
    return Text()


class LastingConsole(Console):
    """Prints until nobody can read it any more, then nothing."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print, if that is still possible."""
        try:
            super().print(*objects, **options)
        except OSError as error:
            self._fall_silent(error)

    def __exit__(self, *raised: Any) -> None:
        try:
            super().__exit__(*raised)
        except OSError as error:
            self._fall_silent(error)

    def on_broken_pipe(self) -> None:
        """Called by rich when nobody reads any more; what rich does itself would end the process."""
        self._fall_silent(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def _fall_silent(self, error: OSError) -> None:
        self.quiet = True
        file = self.file
        with suppress(OSError, ValueError):  # what is still in its buffer must not fail again when the process ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())
        if error.errno not in GONE and not self.stderr:
            LastingConsole(stderr=True).print(
                f"logitfuse: what is printed cannot be written any more ({error.strerror}); the work goes on.",
                highlight=False,
            )


def harmless(text: str, encoding: str = "utf-8") -> str:
    """Return text with control characters, but for line ends and tabs, written as escapes."""
    if text.isascii() and text.isprintable():
        return text
    shown = "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else ascii(c)[1:-1] for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def one_line(text: str) -> str:
    """Return text that takes one line as long as it looks: what cannot be seen is written as escapes, tabs too."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
