"""The page about flags says what the code does."""

from pathlib import Path

from subak.core.rollout_plan import CRITERIA, Criterion

PAGE = Path(__file__).parents[2] / "docs" / "flags.md"


def test_the_table_of_criteria_is_the_codes() -> None:
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    begin = rows.index("| criterion | what | unit | good | bad |") + 1
    assert rows[begin:] == [row(criterion) for criterion in CRITERIA]


def row(criterion: Criterion) -> str:
    good, bad = "<>" if criterion.is_lower_better else "><"
    limit = "–" if criterion.bad is None else f"{bad} {criterion.bad:g}"
    return f"| {criterion.name} | {criterion.about} | {criterion.unit} | {good} {criterion.good:g} | {limit} |"
