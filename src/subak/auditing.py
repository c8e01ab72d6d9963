"""From settings to the audit trail: keys, store, writer and recorder, opened first and closed last.

What belongs to the machine meets here: the anchor file, the checkpoints that go out as log lines, the hourly deletion
of what is past its term.
"""

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from pathlib import Path
from typing import Final

from subak import __version__
from subak.audit.anchors import append_anchor
from subak.audit.errors import LogInUse, StoreDamaged, StoreUnavailable
from subak.audit.keys import BACK_UP, AuditKeys, KeyFileError
from subak.audit.log import AuditLog
from subak.audit.opening import open_writer
from subak.audit.recorder import Recorder
from subak.audit.recovery import recover
from subak.audit.retention import Held, Pruned, prune
from subak.audit.writer import Committed, LogWriter
from subak.core.clock import Clock
from subak.core.deadlines import Deadlines
from subak.core.errors import AuditUnavailable
from subak.core.facts import AnchorFailed, AuditKeysMade, AuditTroubled, CheckpointSealed, Crashed, Fact
from subak.core.ledger import Receipt
from subak.core.live import AuditState
from subak.core.notes import Checkpoint, Note, VerifierKey
from subak.inspecting import store_of
from subak.relay.crash import crash_site
from subak.settings import Settings
from subak.state import StateError

FLUSH_S: Final = 10.0
"""How long the end of the process waits for what is still to be written."""
PRUNE_EVERY_S: Final = 3600.0
NEEDS_RESTART: Final = (
    "audit.enabled",
    "audit.store",
    "audit.dsn",
    "audit.mode",
    "audit.retention_days",
    "audit.anchor_file",
    "audit.receipts",
)
_DAY_MS: Final = 86_400_000
_NOT_FLUSHED: Final = "not_flushed"


class Teller:
    """Has facts told in the event loop, from any thread."""

    def __init__(self, notify: Callable[[Fact], None]) -> None:
        """`notify` is called in the loop that runs now."""
        self._loop = asyncio.get_running_loop()
        self._notify = notify

    def tell(self, fact: Fact) -> None:
        """Have it told."""
        try:
            self._loop.call_soon_threadsafe(self._notify, fact)
        except RuntimeError:
            return  # the loop has gone, and whoever would have heard with it

    def tell_crash(self, error: BaseException) -> None:
        """Have a defect told."""
        self.tell(Crashed(type(error).__name__, crash_site(error)))


class Publisher:
    """Sends checkpoints out of the state directory: as facts, which become log lines, and to the anchor file."""

    def __init__(self, anchor_file: Path | None, teller: Teller) -> None:
        self.failures = 0
        self._anchor_file = anchor_file
        self._is_anchor_failing = False
        self._teller = teller

    def publish(self, note: str) -> None:
        """Publish a signed checkpoint. Called on the writer's thread, after it was stored."""
        checkpoint = Checkpoint.parse(Note.parse(note).text)
        self._teller.tell(CheckpointSealed(checkpoint.origin, checkpoint.size, checkpoint.root.hex(), note))
        if self._anchor_file is not None:
            self._anchor(self._anchor_file, note)

    def _anchor(self, path: Path, note: str) -> None:
        try:
            append_anchor(path, note)
        except OSError as error:
            self.failures += 1
            if not self._is_anchor_failing:
                self._teller.tell(AnchorFailed(str(path), errno.errorcode.get(error.errno or 0, "unknown")))
            self._is_anchor_failing = True
        else:
            self._is_anchor_failing = False


class Retention:
    """Deletes what is past its term, once an hour, on the writer's thread (`core.deadlines.Watched`)."""

    def __init__(self, log: AuditLog, term_days: int, teller: Teller) -> None:
        self._log = log
        self._prune = partial(prune, term_ms=term_days * _DAY_MS)
        self._teller = teller

    def on_deadline(self, now: float) -> float:
        """Have it done; what doesn't work now is tried again in an hour."""
        self._log.perform(self._prune).add_done_callback(self._on_done)
        return now + PRUNE_EVERY_S

    def _on_done(self, pruning: Future[Pruned | None]) -> None:
        try:
            pruning.result()
        except (Held, StoreUnavailable, AuditUnavailable, CancelledError):
            return
        except Exception as error:  # noqa: BLE001 — the root of a deletion: the log goes on, the operator hears of it
            self._teller.tell_crash(error)


class Auditing:
    """The audit trail of a running gateway."""

    def __init__(self, log: AuditLog, recorder: Recorder, publisher: Publisher, teller: Teller) -> None:
        """See `open_auditing`."""
        self.log = log
        self.recorder = recorder
        self._publisher = publisher
        self._teller = teller

    @property
    def state(self) -> AuditState:
        """How it does, for metrics and health."""
        state = self.log.state
        return AuditState(
            queued=state.queued,
            lost=state.lost,
            oldest_waiting_s=round(state.oldest_waiting_s, 3),
            failed_checkpoints=state.failed_seals + self._publisher.failures,
            rows=state.written,
            trouble=self.recorder.trouble,
        )

    async def close(self) -> None:
        """Write all that was heard, seal it and let go of the store, within `FLUSH_S`."""
        self.recorder.close()
        if not await asyncio.to_thread(self.log.close, FLUSH_S):
            self._teller.tell(AuditTroubled(_NOT_FLUSHED))
            await asyncio.sleep(0)  # so that it is told


async def open_auditing(
    settings: Settings, clock: Clock, deadlines: Deadlines, secret: bytes, notify: Callable[[Fact], None]
) -> Auditing:
    """Open the audit trail, and write what a killed process left open. `secret` names streams as log lines do.

    `notify` hears what the trail itself has to tell.

    Raises:
        StateError: it can't be opened; the text says what to do.
    """
    audit = settings.audit
    teller = Teller(notify)
    publisher = Publisher(audit.anchor_file, teller)
    try:
        writer = await asyncio.to_thread(_open, settings, clock, secret, publisher, teller)
    except (KeyFileError, LogInUse, StoreDamaged) as error:
        raise StateError(f"The audit trail can't be opened. {error}") from error
    except StoreUnavailable as error:
        raise StateError(
            f"The audit trail can't be written ({error}). Give it a writable disk or a database that answers, or set "
            "SUBAK_AUDIT__ENABLED=false."
        ) from error
    log = AuditLog(writer, clock, on_defect=teller.tell_crash)
    sign = partial(_receipt, writer.keys) if audit.receipts else None
    recorder = Recorder(log, clock, is_strict=audit.mode == "strict", tell=teller.tell, sign=sign)
    recorder.open(version=__version__, store=audit.store)
    now = clock.monotonic()
    deadlines.watch(recorder, now)
    deadlines.watch(Retention(log, audit.retention_days, teller), now)
    return Auditing(log, recorder, publisher, teller)


def _open(settings: Settings, clock: Clock, secret: bytes, publisher: Publisher, teller: Teller) -> LogWriter:
    writer = open_writer(
        settings.state_dir,
        clock,
        open_store=store_of(settings),
        digest_secret=secret,
        publish=publisher.publish,
        on_keys_created=partial(_tell_of_keys, teller),
    )
    try:
        recover(writer, max_age_s=settings.stream.max_age_s)
    except BaseException:
        writer.close()
        raise
    return writer


def _receipt(keys: AuditKeys, committed: Committed) -> Receipt:
    signature = keys.sealing.sign_receipt(committed.seq, committed.leaf)
    return Receipt(keys.origin, committed.seq, committed.leaf, signature)


def _tell_of_keys(teller: Teller, path: Path, vkey: VerifierKey) -> None:
    teller.tell(AuditKeysMade(str(path), str(vkey), BACK_UP))
