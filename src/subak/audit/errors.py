"""What can go wrong with the log, for the code around it."""

import errno
from collections.abc import Mapping
from enum import StrEnum
from typing import Final


class Trouble(StrEnum):
    """Why the store takes nothing at the moment."""

    DISK_FULL = "disk_full"
    LOCKED = "locked"
    READ_ONLY = "read_only"
    UNREADABLE = "io_error"
    UNREACHABLE = "unreachable"
    DAMAGED = "damaged"


_TROUBLES: Final[Mapping[int, Trouble]] = {
    errno.ENOSPC: Trouble.DISK_FULL,
    errno.EDQUOT: Trouble.DISK_FULL,
    errno.EROFS: Trouble.READ_ONLY,
    errno.EACCES: Trouble.READ_ONLY,
    errno.EPERM: Trouble.READ_ONLY,
}


class StoreUnavailable(Exception):
    """The store takes nothing now; trying again later may succeed."""

    def __init__(self, trouble: Trouble) -> None:
        """`trouble` is for operators and metrics."""
        super().__init__(trouble.value)
        self.trouble = trouble


def trouble_of(error: OSError) -> Trouble:
    """Give the trouble that an error of the file system stands for."""
    return _TROUBLES.get(error.errno or 0, Trouble.UNREADABLE)


class StoreDamaged(Exception):
    """What is stored can't be read or contradicts itself. The text says what to do."""


class LogInUse(Exception):
    """Another process writes this log. The text says what to do."""
