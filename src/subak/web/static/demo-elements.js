/** Elements with text in them. Whatever a model, a document or a gateway said is text here, never markup. */

export function element(name, className = "", text = "") {
  const made = document.createElement(name);
  if (className !== "") made.className = className;
  made.textContent = text;
  return made;
}

/** A link for http and https; null for anything else. */
export function linkTo(address) {
  if (!URL.canParse(address) || !["http:", "https:"].includes(new URL(address).protocol)) return null;
  const link = element("a");
  link.href = address;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  return link;
}
