"""The anchor file: every checkpoint of a log, one after the other, in a place that an attacker of the log can't reach.

A file of its own format would be one more thing to explain: it holds the signed notes as they are, an empty line after
each. Notes that were gathered by hand read as well.
"""

import os
import re
from pathlib import Path
from typing import Final

_NOTE: Final = re.compile(r"(?:[^\n]+\n)+\n(?:— [^\n]+\n)+")


def append_anchor(path: Path, note: str) -> None:
    """Add a signed note to the file's end, durably; one made here is readable by its owner alone. Raises: OSError."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "w", encoding="utf-8") as file:
        file.write(note + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_anchors(text: str) -> tuple[str, ...]:
    """Give the notes of such a file; what isn't whole, as after a crash, is left out."""
    return tuple(_NOTE.findall(text))
