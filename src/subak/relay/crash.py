"""Where an unexpected exception came from, without anything it may carry."""

from types import TracebackType


def crash_site(error: BaseException) -> str:
    """Give `file.py:line function` of the innermost frame. The exception's text is left out: it may hold content."""
    traceback: TracebackType | None = error.__traceback__
    if traceback is None:
        return "unknown"
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code
    return f"{code.co_filename.rpartition('/')[2]}:{traceback.tb_lineno} {code.co_name}"
