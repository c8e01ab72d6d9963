/** The frames as they come over the line, to the letter, and what happened to the line between them. */

import { element } from "./demo-elements.js";

const MOST = 400;
const FIELD = /^([a-z]*:)(.*)$/;
const TOKEN = /("data":)("(?:[^"\\]|\\.)*")/;

/** A list of frames that follows its own end, until a person scrolls up. */
export class Frames {
  #root;
  #torn = "";
  #follows = true;
  #top = 0;

  constructor(root) {
    this.#root = root;
    root.addEventListener("scroll", () => this.#scrolled());
  }

  clear() {
    this.#root.replaceChildren();
    this.#torn = "";
    this.#follows = true;
  }

  /** Add what has come; a block is shown when it is whole. */
  take(text) {
    const blocks = (this.#torn + text).split("\n\n");
    this.#torn = blocks.pop();
    for (const block of blocks) this.#add(frameOf(block));
  }

  /** The line is gone, in the middle of a block perhaps. */
  tear() {
    if (this.#torn !== "") this.#add(element("span", "frame dropped", `${this.#torn}\n`));
    this.#torn = "";
  }

  /** Strike the newest block with this id out: it was read before. */
  drop(id) {
    [...this.#root.children].findLast((frame) => frame.dataset.id === id)?.classList.add("dropped");
  }

  /** Note what was asked, or happened. */
  mark(words) {
    this.#add(element("span", "frame mark", `${words}\n`));
  }

  /** Once for each picture: scrolling costs. */
  follow() {
    if (this.#follows) this.#root.scrollTop = this.#root.scrollHeight;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.#root;
    const isAtEnd = scrollHeight - scrollTop - clientHeight < 40;
    this.#follows = isAtEnd || (this.#follows && scrollTop >= this.#top);
    this.#top = scrollTop;
  }

  #add(frame) {
    this.#root.append(frame);
    if (this.#root.childElementCount > MOST) this.#root.firstElementChild.remove();
  }
}

function frameOf(block) {
  const frame = element("span", "frame");
  for (const line of block.split("\n")) {
    const [, name, value] = FIELD.exec(line) ?? [line, line, ""];
    if (name === "id:") frame.dataset.id = value.trim();
    frame.append(element("span", "key", name), ...valueOf(value), "\n");
  }
  return frame;
}

function valueOf(value) {
  const [, name, token] = TOKEN.exec(value) ?? [];
  if (token === undefined) return [value];
  const at = value.indexOf(name + token) + name.length;
  return [value.slice(0, at), element("span", "token", token), value.slice(at + token.length)];
}
