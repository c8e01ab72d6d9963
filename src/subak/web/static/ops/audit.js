/** The audit trail: search, and whether it is what was sealed. Only core fields are shown, never a person's data. */

import { ask, doAndTell, Refused } from "./ask.js";

const MISSING = 404;
const FIRST = ["seq", "at_ms", "operation", "outcome", "stream"];
const PERSONAL = new Set(["personal", "subject", "tenant", "email", "address", "query_hash", "query_commit"]);

/** Make the buttons work. */
export function listenForAudit() {
  const verifyTold = document.getElementById("verify-told");
  document.getElementById("verify").addEventListener("click", async () => {
    await doAndTell(verifyTold, () => routed(ask("POST", "/-/audit/verify", {})), verdict);
    verifyTold.classList.toggle("good", verifyTold.textContent.startsWith("Whole"));
    verifyTold.classList.toggle("bad", !verifyTold.textContent.startsWith("Whole"));
  });
  document.getElementById("search").addEventListener("submit", (event) => {
    event.preventDefault();
    search(new FormData(event.target));
  });
}

async function search(form) {
  const wanted = new URLSearchParams();
  for (const [name, value] of form) if (value !== "") wanted.set(name, isTime(name) ? `${value}Z` : value);
  const told = document.getElementById("search-told");
  const found = document.getElementById("found");
  found.hidden = true;
  await doAndTell(told, () => routed(ask("GET", `/-/audit/search?${wanted}`)), ({ rows }) => {
    found.replaceChildren(...(rows.length > 0 ? [tableOf(rows.map(flat))] : []));
    found.hidden = rows.length === 0;
    return rows.length === 1 ? "1 row." : `${rows.length} rows.`;
  });
}

const isTime = (name) => name === "since" || name === "until";

/** A gateway without these routes says so in words. */
async function routed(asked) {
  try {
    return await asked;
  } catch (error) {
    if (!(error instanceof Refused) || error.status !== MISSING) throw error;
    throw new Refused("This gateway has no audit routes: use subak audit on its machine.", MISSING);
  }
}

function verdict({ size, base_size: pruned, sealed_size: sealed, checkpoints, findings, warnings }) {
  const scope = `${size - pruned} rows, ${checkpoints} checkpoints, sealed up to ${sealed}`;
  const doubts = warnings.map(({ doubt, seq }) => `\nNote: ${doubt} (${seq}).`).join("");
  if (findings.length === 0) return `Whole: ${scope}.${doubts}`;
  const flaws = findings.map(({ flaw, seq, detail }) => `\nAt ${seq}: ${flaw}. ${detail}`).join("");
  return `Not whole: ${scope}.${flaws}${doubts}`;
}

/** A row's core fields beside its own columns. */
function flat({ fields = {}, ...row }) {
  const shown = Object.entries({ ...row, ...fields }).filter(([name, value]) => !PERSONAL.has(name) && value !== null);
  return Object.fromEntries(shown.map(([name, value]) => [name, name === "at_ms" ? inUtc(value) : String(value)]));
}

const inUtc = (ms) => new Date(ms).toISOString().slice(0, 23).replace("T", " ");

function tableOf(rows) {
  const all = new Set(rows.flatMap(Object.keys));
  const names = [...FIRST.filter((name) => all.delete(name)), ...all];
  const table = document.createElement("table");
  table.append(document.createElement("thead"), document.createElement("tbody"));
  table.tHead.append(line("th", names.map((name) => name.replaceAll("_", " "))));
  table.tBodies[0].append(...rows.map((row) => line("td", names.map((name) => row[name] ?? ""))));
  return table;
}

function line(kind, texts) {
  const made = document.createElement("tr");
  for (const text of texts) made.append(Object.assign(document.createElement(kind), { textContent: text }));
  return made;
}
