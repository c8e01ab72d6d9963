/** The answer as it grows: formatted, or to the letter. Only its last blocks are made anew. */

import { element } from "./demo-elements.js";
import { blocksOf, nodeOf } from "./demo-markdown.js";

/** A line that isn't over is the last block by itself until it is seen that it goes on with the one before: `-`, `- a`. */
const OPEN_BLOCKS = 2;

/** Text that comes at its end, and marks where the line was lost. */
export class Answer {
  #root;
  #spoken;
  #text = "";
  #saidUpTo = 0;
  #seams = [];
  #isPlain = false;
  /** Where the open blocks begin, their nodes, and how many seams stand before them. */
  #from = 0;
  #open = [];
  #seamsBefore = 0;
  #nextSeam = 0;

  /** `spoken` is a live region. */
  constructor(root, spoken) {
    this.#root = root;
    this.#spoken = spoken;
  }

  clear() {
    this.#seams = [];
    this.#saidUpTo = 0;
    this.#spoken.replaceChildren();
    this.#begin();
  }

  /** Show the whole text so far, and say the paragraphs that are finished. */
  show(text) {
    if (text === this.#text) return;
    if (!text.startsWith(this.#text)) this.#begin();
    const before = this.#text.length;
    this.#text = text;
    if (this.#isPlain) this.#putPlain(before);
    else this.#putBlocks();
    this.#say(text.lastIndexOf("\n\n"));
  }

  /** Nothing more will come: say the rest. */
  finish() {
    this.#say(this.#text.length);
  }

  /** Mark the end of what has come. The mark bears no text: the answer stays what the gateway's log says. */
  seam(words) {
    this.#seams.push({ at: this.#text.length, words });
    if (this.#isPlain) this.#putPlain(this.#text.length);
    else this.#putBlocks();
  }

  set isPlain(isPlain) {
    const text = this.#text;
    this.#begin();
    this.#isPlain = isPlain;
    this.#root.classList.toggle("plain", isPlain);
    this.show(text);
  }

  #begin() {
    this.#root.replaceChildren();
    this.#text = "";
    this.#from = this.#seamsBefore = this.#nextSeam = 0;
    this.#open = [];
  }

  #putPlain(from) {
    this.#put(this.#root, from, this.#text.length);
  }

  #putBlocks() {
    for (const node of this.#open) node.remove();
    this.#nextSeam = this.#seamsBefore;
    const blocks = blocksOf(this.#text, this.#from);
    blocks.forEach((block, index) => {
      if (index === Math.max(0, blocks.length - OPEN_BLOCKS)) {
        this.#from = block.from;
        this.#seamsBefore = this.#nextSeam;
        this.#open = [];
      }
      const node = nodeOf(block, this.#text, (parent, from, to) => this.#put(parent, from, to));
      this.#root.append(node);
      this.#open.push(node);
    });
  }

  #put(parent, from, to) {
    while (this.#seams[this.#nextSeam]?.at <= to) {
      const { at, words } = this.#seams[this.#nextSeam];
      const cut = Math.max(from, at);
      const seam = element("span", "seam");
      seam.title = words;
      parent.append(this.#text.slice(from, cut), seam);
      this.#nextSeam += 1;
      from = cut;
    }
    if (to > from) parent.append(this.#text.slice(from, to));
  }

  #say(upTo) {
    const words = this.#text.slice(this.#saidUpTo, upTo).trim();
    this.#saidUpTo = Math.max(this.#saidUpTo, upTo);
    if (words !== "") this.#spoken.append(element("p", "", words));
  }
}
