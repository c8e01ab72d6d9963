/** What operators change: the flag, its percentage, the rollout, and whether this instance stays. */

import { ask, doAndTell } from "./ask.js";
import { confirmed } from "./confirm.js";

const key = () => document.getElementById("flag-key").textContent;

/** Make the buttons work; `refresh` shows what came of it. */
export function listenForChanges(refresh) {
  listenForFlag(refresh);
  listenForRollout(refresh);
  listenForDrain(refresh);
}

function listenForFlag(refresh) {
  const told = document.getElementById("flag-told");
  const percentage = document.getElementById("percentage");
  const change = async (part) => {
    await doAndTell(told, () => override(part), ({ effect }) => `Done: streaming is ${effect}.`);
    await refresh();
  };
  onClick("switch-off", () => change({ off: true }));
  onClick("switch-on", () => change({ off: false }));
  document.getElementById("percentage-form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const wanted = percentage.value;
    await change({ percentage: wanted === "" ? null : Number(wanted) });
    percentage.defaultValue = wanted;
    event.target.reset();
  });
}

/** What isn't changed here stays as it is there. */
const override = (part) => ask("PATCH", `/-/flags/${encodeURIComponent(key())}`, part);

function listenForRollout(refresh) {
  const told = document.getElementById("rollout-told");
  const step = async (name) => {
    await doAndTell(told, () => ask("POST", `/-/rollout/${name}`, {}), ({ rollout }) => `Done: ${rollout.why}.`);
    await refresh();
  };
  onClick("pause", () => step("pause"));
  onClick("resume", () => step("resume"));
  onClick("keep", () => step("keep"));
  onClick("abort", async () => {
    const text = "The percentage goes to 0: only callers on the allow list still stream. Answers under way go on.";
    if (await confirmed("Abort the rollout?", text, "Abort")) await step("abort");
  });
}

function listenForDrain(refresh) {
  const told = document.getElementById("drain-told");
  onClick("drain-button", async () => {
    const text =
      "It takes no new streams from now on, and the process ends. Nothing on this page brings it back: your supervisor does.";
    if (!(await confirmed("Drain this instance?", text, "Drain"))) return;
    await doAndTell(told, () => ask("POST", "/-/drain", {}), () => "It drains, and leaves when its streams have ended.");
    await refresh();
  });
}

function onClick(id, action) {
  document.getElementById(id).addEventListener("click", action);
}
