"""What a check of the installation finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["fine", "note", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `note`: work is possible, with less than there could be; `mend`: what to do."""

    group: str
    name: str
    state: State
    found: str
    mend: str = ""

    def facts(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)
