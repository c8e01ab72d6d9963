/** Where an answer comes from, as items of a list. */

import { element, linkTo } from "./demo-elements.js";

export function sourceItem({ source, snippet, similarity, dateLastCrawled, tier }) {
  const { name, place } = nameAndPlace(source);
  const facts = element("p", "facts");
  facts.append(similarityBar(similarity), `similarity ${similarity.toFixed(2)}`);
  if (dateLastCrawled) facts.append(element("span", "", `as of ${dateLastCrawled}`));
  if (tier) facts.append(element("span", "", `tier ${tier}`));
  if (place !== "") facts.append(element("span", "place", place));
  const body = element("div");
  body.append(titleOf(name, place), element("p", "snippet", snippet), facts);
  const item = element("li");
  item.append(body);
  return item;
}

/** The figure beside it says the same in words. */
function similarityBar(similarity) {
  const bar = element("span", "bar");
  bar.style.setProperty("--share", similarity);
  bar.ariaHidden = "true";
  return bar;
}

/** A source is called "name (place)", or by its name or its address alone. */
function nameAndPlace(source) {
  const parts = /^(.*\S) +\(([^()]+)\)$/s.exec(source);
  if (parts !== null) return { name: parts[1], place: parts[2] };
  return { name: source, place: linkTo(source) === null ? "" : source };
}

function titleOf(name, place) {
  const link = linkTo(place);
  if (link === null) return element("p", "source-title", name);
  link.textContent = name;
  const title = element("p", "source-title");
  title.append(link);
  return title;
}
