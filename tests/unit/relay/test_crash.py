"""Where an exception came from, without what it carries (docs/PROTOCOL.md, I18)."""

from subak.relay.crash import crash_site


def fail(content: str) -> None:
    raise KeyError(content)


def caught(content: str) -> KeyError:
    try:
        fail(content)
    except KeyError as error:
        return error
    raise AssertionError("it fails")


def test_the_site_is_file_line_and_function_of_the_innermost_frame() -> None:
    line = fail.__code__.co_firstlineno + 1
    assert crash_site(caught("x")) == f"test_crash.py:{line} fail"


def test_the_site_tells_neither_content_nor_directories() -> None:
    site = crash_site(caught("ann@example.org"))
    assert "ann" not in site
    assert "/" not in site


def test_an_exception_that_was_never_raised_has_no_site() -> None:
    assert crash_site(KeyError("x")) == "unknown"
