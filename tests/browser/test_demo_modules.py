"""The demo page's own modules in Chromium: how answers and frames are shown, whatever is said and however it comes."""

import random
from typing import Final

import pytest

from tests.browser.conftest import Visiting
from tests.settings import runs

pytestmark = [pytest.mark.browser, pytest.mark.asyncio(loop_scope="session")]

PIECES: Final = (
    *"ab*_`#->|.![](){}<& \n1\\",
    *("\n\n", "```", "**", "- ", "  - ", "2. ", "> ", "# ", "---\n", "é", "\U0001f334", "\u2028", "\r\n", "\x00"),
    *("https://example.org/a?b=1&c", "[x](https://example.org/x)", "[x](javascript:alert(1))", "<img src=x onerror=y>"),
    *("http://", "https://[", "data:text/html,x", "[x](//example.org)", "</pre>", "&lt;"),
)
ALLOWED: Final = frozenset(
    {"A", "BLOCKQUOTE", "CODE", "DIV", "EM", "H3", "H4", "HR", "LI", "OL", "P", "PRE", "SPAN", "STRONG", "UL"}
)
SHOW: Final = """
async (texts) => {
    const { Answer } = await import("/static/demo-answer.js");
    return texts.map(([pieces, seams]) => {
        const show = (steps) => {
            const root = document.createElement("div");
            const answer = new Answer(root, document.createElement("div"));
            answer.clear();
            let text = "";
            steps.forEach((piece, index) => {
                answer.show(text += piece);
                if (seams.includes(index)) answer.seam("cut");
            });
            return { root, answer };
        };
        const grown = show(pieces);
        const elements = [...grown.root.querySelectorAll("*")];
        const whole = seams.length > 0 ? grown : show([pieces.join("")]);
        const shown = {
            names: elements.map(({ tagName }) => tagName),
            links: elements.filter((each) => each.href).map(({ protocol, rel }) => `${protocol} ${rel}`),
            attributes: elements.flatMap((each) => each.getAttributeNames()),
            seams: elements.filter((each) => each.className === "seam").length,
            isSame: whole.root.innerHTML === grown.root.innerHTML,
        };
        grown.answer.isPlain = true;
        return { ...shown, plain: grown.root.textContent };
    });
}
"""
"""Shows each text piece by piece, with a seam after some of them, and the whole at once; then to the letter."""
FRAMES: Final = """
async (body) => {
    const { Frames } = await import("/static/demo-frames.js");
    const root = document.createElement("div");
    const frames = new Frames(root);
    for (const character of body) frames.take(character);
    frames.tear();
    return [...root.children].map(({ className, textContent }) => [className, textContent]);
}
"""


async def test_any_text_in_any_pieces_is_shown_as_the_whole_would_be_and_brings_nothing_along(
    embedded: str, visit: Visiting
) -> None:
    count = runs(fast=200, default=2_000, soak=20_000)
    rng = random.Random(20_261_123)
    known = ["---\n", "  - ", "---\n"], ["- a\n", "-", " b"], ["  - a\n", "1", "2. b"]
    texts = [*known, *(rng.choices(PIECES, k=rng.randrange(60)) for _ in range(count))]
    here = await visit(embedded)
    for pieces, shown in zip(texts, await here.page.evaluate(SHOW, [[each, []] for each in texts]), strict=True):
        assert shown["isSame"], pieces
        assert shown["plain"] == "".join(pieces)
        assert set(shown["names"]) <= ALLOWED, pieces
        assert set(shown["links"]) <= {"http: noopener noreferrer", "https: noopener noreferrer"}, pieces
        assert set(shown["attributes"]) <= {"href", "target", "rel", "start", "tabindex"}, pieces


async def test_each_cut_leaves_one_mark_wherever_it_falls(embedded: str, visit: Visiting) -> None:
    count = runs(fast=200, default=2_000, soak=20_000)
    rng = random.Random(42)
    texts = [["a ", *rng.choices(PIECES, k=30), "\n\nz"] for _ in range(count)]
    cuts = [sorted(rng.sample(range(31), k=3)) for _ in range(count)]
    here = await visit(embedded)
    cases = [[text, places] for text, places in zip(texts, cuts, strict=True)]
    for pieces, shown in zip(texts, await here.page.evaluate(SHOW, cases), strict=True):
        assert shown["seams"] == 3, pieces
        assert shown["plain"] == "".join(pieces)


async def test_a_long_line_without_an_end_is_shown_in_time(embedded: str, visit: Visiting) -> None:
    """Each is a trap for expressions that look back: their time would grow with the square of the text."""
    traps = [part * 30_000 for part in ("*a", "`", "[", "[a](", "**a ", "http://a!!", "> ", "a\n")]
    here = await visit(embedded)
    shown = await here.page.evaluate(SHOW, [[[trap], []] for trap in traps])
    assert [each["plain"] for each in shown] == traps


async def test_frames_are_shown_to_the_letter_and_a_torn_one_struck_out(embedded: str, visit: Visiting) -> None:
    blocks = [
        ": ok\nretry: 1840\nid: st_x.1\nevent: message\ndata: {}",
        'id: st_x.2\nevent: message\ndata: {"type":"token","data":"a \\"b\\" <i>: c","sequence":2}',
        'event: heartbeat\ndata: {"data":{"timestamp":1}}\n: hb',
    ]
    here = await visit(embedded)
    shown = await here.page.evaluate(FRAMES, "\n\n".join([*blocks, "id: st_x.3\nevent: mess"]))
    torn = ["frame dropped", "id: st_x.3\nevent: mess\n"]
    assert shown == [*(["frame", f"{block}\n"] for block in blocks), torn]
