"""docs/settings.md is what the code prints."""

from pathlib import Path

from subak.cli.config import markdown_page, markdown_table
from subak.settings import catalogue

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "settings.md"
README = ROOT / "README.md"
FIRST_NEEDED = (
    "features.sse_streaming",
    "upstream.url",
    "upstream.kind",
    "server.host",
    "server.port",
    "state_dir",
    "http.cors_origins",
    "http.trusted_proxies",
    "auth.required",
    "auth.jwks_url",
    "auth.issuer",
    "auth.audience",
    "auth.internal_keys",
    "limits.chat",
    "limits.streams",
    "admin.port",
    "audit.retention_days",
    "stream.on_disconnect",
    "stream.grace_s",
    "stream.heartbeat_s",
    "stream.max_connection_age_s",
    "stream.drain_s",
    "knowledge.docs",
    "log.level",
)


def test_the_page_is_what_the_code_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == markdown_page(), "run: subak config docs > docs/settings.md"


def test_the_page_has_every_name_one_can_set() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for setting in catalogue():
        assert f"| `{setting.key}`" in page
        assert f"`{setting.variable}`" in page
        assert setting.notes.alias is None or f"alias `{setting.notes.alias}`" in page
        assert setting.notes.flag is None or f"flag `{setting.notes.flag}`" in page


def test_the_readme_s_table_is_what_the_code_says_of_the_settings_one_needs_first() -> None:
    by_key = {setting.key: setting for setting in catalogue()}
    table = markdown_table([by_key[key] for key in FIRST_NEEDED])
    assert table in README.read_text(encoding="utf-8"), f"README.md should have:\n{table}"
