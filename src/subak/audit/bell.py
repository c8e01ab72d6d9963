"""Wakes one thread from any other."""

from threading import Lock


class Bell:
    """Rung by any thread, heard by one; rung twice before it is heard is rung once.

    One lock of the interpreter's, held while the bell is silent. An `Event` makes a lock for each wait and takes three
    more, each of them an occasion for the two threads to hand the interpreter to each other.
    """

    __slots__ = ("_silence",)

    def __init__(self) -> None:
        """It is silent."""
        self._silence = Lock()
        self._silence.acquire()

    def ring(self) -> None:
        """Wake who waits, or who will. Never blocks."""
        if self._silence.locked():
            try:
                self._silence.release()
            except RuntimeError:
                return  # another thread rang between the two

    def wait(self, timeout_s: float = -1) -> None:
        """Return once it is rung, or after `timeout_s`; it is silent then. May return without reason."""
        self._silence.acquire(timeout=timeout_s)
