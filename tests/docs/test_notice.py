"""What of others is in the package is named in NOTICE, by its version and with its license."""

import re
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
VENDORED: Final = ROOT / "src" / "subak" / "web" / "static" / "ops" / "uplot.js"


def test_notice_names_the_version_of_uplot_that_is_there_and_has_its_license() -> None:
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    version = re.match(
        r"/\*! https://github.com/leeoniya/uPlot \(v([\d.]+)\) \*/", VENDORED.read_text(encoding="utf-8")
    )
    assert version is not None
    assert f"{VENDORED.relative_to(ROOT)} and uplot.css are uPlot {version[1]} " in notice
    assert "The MIT License (MIT)" in notice
    assert "Copyright (c) 2022 Leon Sorokin" in notice
