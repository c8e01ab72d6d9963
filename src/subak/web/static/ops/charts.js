/** Latency over the last hour with the target as a line, by uPlot (a classic script: it stands on the window). */

import { ask } from "./ask.js";

const HEIGHT = 190;
const KEPT = 720;
const SHORT_S = 300;
const TARGETS = { first_token: 100, inter_token: 50 };
const NAMES = { first_token: "First token", inter_token: "Next token" };
const DARK = matchMedia("(prefers-color-scheme: dark)");

/** Both charts, and the columns that they are drawn from. */
export class Charts {
  #root;
  #columns = { at_ms: [] };
  #plots = [];

  constructor(root) {
    this.#root = root;
    root.hidden = false;
    DARK.addEventListener("change", () => this.#redraw());
    new ResizeObserver(() => this.#resize()).observe(root);
  }

  /** Ask for what is new, and draw it. */
  async update() {
    const newest = this.#columns.at_ms.at(-1) ?? 0;
    const fresh = await ask("GET", `/-/history?after=${newest}`);
    if (fresh.at_ms.length > 0) this.#add(fresh);
    if (this.#plots.length === 0) this.#redraw();
    else if (fresh.at_ms.length > 0) this.#draw();
  }

  #add(fresh) {
    for (const [name, values] of Object.entries(fresh))
      this.#columns[name] = [...(this.#columns[name] ?? []), ...values].slice(-KEPT);
  }

  #redraw() {
    for (const { plot } of this.#plots) plot.destroy();
    this.#plots = Object.keys(TARGETS).map((what) => {
      const place = document.getElementById(`${what.replace("_", "-")}-chart`);
      return { what, place, plot: new uPlot(options(what, place.clientWidth), this.#of(what), place) };
    });
    this.#tellNewest();
  }

  #draw() {
    for (const { what, plot } of this.#plots) plot.setData(this.#of(what));
    this.#tellNewest();
  }

  #resize() {
    for (const { plot, place } of this.#plots) plot.setSize({ width: place.clientWidth, height: HEIGHT });
  }

  #of(what) {
    const { at_ms: times } = this.#columns;
    const seconds = times.map((ms) => ms / 1000);
    const targets = times.map(() => TARGETS[what]);
    return [seconds, this.#columns[`${what}_p50_ms`] ?? [], this.#columns[`${what}_p95_ms`] ?? [], targets];
  }

  /** In the legend while nobody points at the chart, and in a sentence for those who don't see it. */
  #tellNewest() {
    for (const { what, place, plot } of this.#plots) {
      if (plot.cursor.left < 0) requestAnimationFrame(() => plot.setLegend({ idx: plot.data[0].length - 1 })); // once drawn
      const newest = this.#columns[`${what}_p95_ms`]?.at(-1) ?? null;
      const now = newest === null ? "nothing in the last minute" : `p95 ${Math.round(newest)} ms`;
      place.setAttribute("aria-label", `${NAMES[what]}: ${now}, target ${TARGETS[what]} ms`);
    }
  }
}

function options(what, width) {
  const [soft, rule, water, field, clay] = colours("soft", "rule", "water", "field", "clay");
  const axis = { stroke: soft, grid: { stroke: rule, width: 1 }, ticks: { show: false }, font: `12px ${fontOf()}` };
  const shown = (_, value) => (value === null || value === undefined ? "–" : `${value.toFixed(value < 10 ? 1 : 0)} ms`);
  const line = (label, stroke, more) => ({ label, stroke, width: 2, points: { show: false }, value: shown, ...more });
  return {
    width,
    height: HEIGHT,
    cursor: { y: false, points: { size: 7 } },
    legend: { live: true, markers: { width: 2 } },
    scales: { y: { range: (_, __, greatest) => [0, Math.max(TARGETS[what] * 1.25, greatest * 1.1)] } },
    axes: [
      { ...axis, grid: { show: false }, values: clock, space: 70, size: 34 },
      { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => `${tick} ms`) },
    ],
    series: [
      { label: "At", value: (_, at) => (at === null ? "–" : timeOf(at)) },
      line("p50", water),
      line("p95", field, { fill: `${field}1f` }),
      line("target", clay, { width: 1.5, dash: [6, 5] }),
    ],
  };
}

/** To the minute, where more than a few are shown. */
function clock(_, ticks) {
  const isShort = ticks.at(-1) - ticks[0] < SHORT_S;
  return ticks.map((tick) => timeOf(tick).slice(0, isShort ? 8 : 5));
}

/** In UTC, as every time on the page. */
function timeOf(seconds) {
  return new Date(seconds * 1000).toISOString().slice(11, 19);
}

function colours(...names) {
  const style = getComputedStyle(document.documentElement);
  return names.map((name) => style.getPropertyValue(`--${name}`).trim());
}

function fontOf() {
  return getComputedStyle(document.body).fontFamily;
}
