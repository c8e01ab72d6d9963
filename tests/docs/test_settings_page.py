"""docs/settings.md is what the code prints."""

from pathlib import Path

from subak.cli.config import markdown_page
from subak.settings import catalogue

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_page_is_what_the_code_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown_page(), "run: subak config docs > docs/settings.md"


def test_the_page_has_every_name_one_can_set() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for setting in catalogue():
        assert f"| `{setting.key}`" in page
        assert f"`{setting.variable}`" in page
        assert setting.notes.alias is None or f"alias `{setting.notes.alias}`" in page
        assert setting.notes.flag is None or f"flag `{setting.notes.flag}`" in page
