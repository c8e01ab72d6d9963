// What a page has to do to show a streamed answer. The client comes back by itself when its line is lost, asks once
// however often that happens, and ends with the answer's own ending.

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

const client = new BaliZeroStreamClient({
  onConnect: () => say("The answer is coming."),
  onToken: (text) => at.answer.append(text), // as text, never as HTML
  onSources: (sources) => at.sources.append(...sources.map(({ source }) => itemOf(source))),
  onReplace: (text) => at.answer.replaceChildren(text),
});

at.ask.addEventListener("submit", async (event) => {
  event.preventDefault();
  at.answer.replaceChildren();
  at.sources.replaceChildren();
  say("Asking …");
  working(true);
  try {
    const question = { query: at.query.value, user_role: at.role.value };
    const { finalData } = await client.stream(question);
    say(`Complete (${finalData.finish_reason}).`);
  } catch (error) {
    say(error.code === "stopped" ? "Stopped. What had come is kept." : error.message);
  } finally {
    working(false);
    at.metrics.textContent = JSON.stringify(client.getMetrics(), null, 2);
  }
});

at.stop.addEventListener("click", () => client.stop());

function say(words) {
  at.status.textContent = words;
}

function working(isWorking) {
  at.submit.disabled = isWorking;
  at.stop.disabled = !isWorking;
  at.answer.setAttribute("aria-busy", String(isWorking));
}

function itemOf(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}
