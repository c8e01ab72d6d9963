/** Requests to this listener. The browser adds the credentials that it was logged in with. */

const PATIENCE_MS = 10_000;

/** The gateway, or whatever is in front of it, said no; `message` is for people. */
export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

/** Ask; give the body of the answer, read as JSON, or null when it has none. */
export async function ask(method, path, body) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const response = await answerOf(path, { method, headers, body: JSON.stringify(body) });
  const told = await response.json().catch(() => null);
  if (!response.ok) throw new Refused(told?.detail ?? `The gateway answered ${response.status}.`, response.status);
  return told;
}

/** Ask for a page; give it as text. */
export async function askForText(path) {
  const response = await answerOf(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  const text = await response.text().catch(fail);
  if (!response.ok) throw new Refused(`The gateway answered ${response.status}.`, response.status);
  return text;
}

const answerOf = (path, options) => fetch(path, options).catch(fail);

function fail() {
  throw new Refused("The gateway doesn’t answer.", 0);
}

/** Do something, and tell beside it how that went; `words` turns what came back into a sentence. */
export async function doAndTell(place, action, words) {
  place.className = "told";
  place.textContent = "…";
  try {
    place.textContent = words(await action());
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    place.className = "told bad";
    place.textContent = error.message;
  }
}
