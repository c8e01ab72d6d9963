/** The audit trail: search, and whether it is what was sealed. Only core fields are shown, never a person's data. */

import { ask, doAndTell, Refused } from "./ask.js";

const CONFLICT = 409;
const POLL_MS = 500;
const SHOWN_BESIDE = new Set(["v", "op", "time_ms", "mono_ms", "outcome", "stream"]);
const MINUTES = "2026-01-01T00:00".length;

/** Make the buttons work. */
export function listenForAudit() {
  const button = document.getElementById("verify");
  button.addEventListener("click", async () => {
    const told = document.getElementById("verify-told");
    button.setAttribute("aria-busy", "true");
    await doAndTell(told, verify, (report) => {
      told.classList.add(report.ok ? "good" : "bad");
      return inWords(report);
    });
    button.removeAttribute("aria-busy");
  });
  const results = new Results();
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    results.begin(new FormData(event.target));
  });
}

/** Have the trail verified, or wait for the verification that runs; give the report. */
async function verify() {
  const bar = document.getElementById("verify-progress");
  await ask("POST", "/-/audit/verify", {}).catch((error) => {
    if (error.status !== CONFLICT) throw error;
  });
  bar.hidden = false;
  try {
    return await finished(bar);
  } finally {
    bar.hidden = true;
  }
}

async function finished(bar) {
  for (;;) {
    const { status, rows, size, report, message } = await ask("GET", "/-/audit/verify");
    if (status === "done") return report;
    if (status === "failed") throw new Refused(`It could not be verified: ${message}`, 0);
    bar.max = size || 1;
    bar.value = rows;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

function inWords({ ok, origin, size, pruned, sealed, checkpoints, finding_count: count, findings, warnings }) {
  const scope = `${size - pruned} rows of ${origin}, ${checkpoints} checkpoints, sealed up to row ${sealed}`;
  const doubts = warnings.map(({ about }) => `\nNote: ${about}.`).join("");
  if (ok) return `Whole: ${scope}.${doubts}`;
  const flaws = findings.map(({ about, seq, detail }) => `\nAt ${seq}: ${about}. ${detail}`).join("");
  return `Not whole, ${count} findings: ${scope}.${flaws}${doubts}`;
}

/** Rows that were found, a page at a time. */
class Results {
  #told = document.getElementById("search-told");
  #place = document.getElementById("found");
  #body = document.getElementById("found-rows");
  #more = document.getElementById("more");
  #wanted = new URLSearchParams();

  constructor() {
    this.#more.addEventListener("click", () => this.#read());
  }

  /** Look for what the form asks for. */
  async begin(form) {
    const given = [...form].filter(([, value]) => value !== "");
    this.#wanted = new URLSearchParams(given.map(([name, value]) => [name, isTime(name) ? inUtc(value) : value]));
    this.#body.replaceChildren();
    await this.#read();
  }

  async #read() {
    this.#more.hidden = true;
    await doAndTell(this.#told, () => ask("GET", `/-/audit/search?${this.#wanted}`), ({ rows, next }) => {
      this.#body.append(...rows.map(lineOf));
      this.#more.hidden = next === null;
      if (next !== null) this.#wanted.set("after", next);
      const count = this.#body.rows.length;
      return `${count} ${count === 1 ? "row" : "rows"}${next === null ? "." : ", and there are more."}`;
    });
    this.#place.hidden = this.#body.rows.length === 0;
  }
}

const isTime = (name) => name === "since" || name === "until";

/** What a field for date and time holds has no seconds where they are 0. */
const inUtc = (value) => `${value}${value.length === MINUTES ? ":00" : ""}Z`;

/** One row: its own columns, and the rest of what was sealed. */
function lineOf({ seq, time, operation, outcome, stream, core }) {
  const rest = Object.entries(core).filter(([name]) => !SHOWN_BESIDE.has(name));
  const about = rest.map(([name, value]) => `${name} ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ");
  const line = document.createElement("tr");
  for (const text of [seq, time.slice(0, 19).replace("T", " "), operation, outcome ?? "–", stream ?? "–", about])
    line.append(Object.assign(document.createElement("td"), { textContent: text }));
  return line;
}
