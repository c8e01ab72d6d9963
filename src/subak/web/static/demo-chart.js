/** How the answer came: tokens over time, with the times at which there was no line. An SVG of our own. */

const SPACE = "http://www.w3.org/2000/svg";
const WIDTH = 420;
const HEIGHT = 116;
const LEFT = 2;
const TOP = 16;
const FLOOR = HEIGHT - 17;
const LEAST_MS = 3_000;
const MOST_POINTS = 600;

/** A curve that grows. */
export class Chart {
  #root;
  #points = [];
  #gaps = [];

  constructor(root) {
    this.#root = root;
    root.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  }

  clear() {
    this.#points = [{ ms: 0, tokens: 0 }];
    this.#gaps = [];
    this.draw();
  }

  /** Note how far it is, `ms` after the question. */
  sample(ms, tokens, hasLine) {
    if (this.#points.length > MOST_POINTS) this.#points = this.#points.filter((_, index) => index % 2 === 0);
    this.#points.push({ ms, tokens });
    const gap = this.#gaps.at(-1);
    if (gap?.isOpen) {
      gap.to = ms;
      gap.isOpen = !hasLine;
    } else if (!hasLine) this.#gaps.push({ from: ms, to: ms, isOpen: true });
  }

  /** For how long there was no line, in ms. */
  get downMs() {
    return this.#gaps.reduce((sum, { from, to }) => sum + to - from, 0);
  }

  draw() {
    const { ms, tokens } = this.#points.at(-1);
    const span = Math.max(LEAST_MS, ms);
    const x = (at) => LEFT + ((WIDTH - 2 * LEFT) * at) / span;
    const y = (count) => FLOOR - ((FLOOR - TOP) * count) / Math.max(1, tokens);
    const line = this.#points.map((point) => `${x(point.ms).toFixed(1)},${y(point.tokens).toFixed(1)}`).join(" ");
    this.#root.replaceChildren(
      ...this.#gaps.flatMap(({ from, to }) => gapShapes(x(from), Math.max(2, x(to) - x(from)), to - from)),
      shape("polygon", { class: "area", points: `${x(0)},${FLOOR} ${line} ${x(ms).toFixed(1)},${FLOOR}` }),
      shape("line", { class: "floor", x1: 0, x2: WIDTH, y1: FLOOR, y2: FLOOR }),
      shape("polyline", { class: "curve", points: line }),
      shape("circle", { class: "head", cx: x(ms).toFixed(1), cy: y(tokens).toFixed(1), r: 3.5 }),
      label(LEFT, HEIGHT - 3, "0 s"),
      label(WIDTH - LEFT, HEIGHT - 3, inSeconds(span), "end"),
    );
  }
}

/** Milliseconds as people say them. */
export function inSeconds(ms) {
  return `${(ms / 1000).toFixed(1)} s`;
}

function gapShapes(x, width, ms) {
  const band = shape("rect", { class: "gap", x: x.toFixed(1), y: 0, width: width.toFixed(1), height: FLOOR });
  return width < 60 ? [band] : [band, label(x + width / 2, 11, `no line ${inSeconds(ms)}`, "middle", "gap-label")];
}

function label(x, y, text, anchor = "start", name = "axis") {
  const made = shape("text", { class: name, x, y, "text-anchor": anchor });
  made.textContent = text;
  return made;
}

function shape(name, attributes) {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
