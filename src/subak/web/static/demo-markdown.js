/**
 * The part of Markdown that models write, as DOM nodes: what isn't understood stays text, nothing becomes HTML.
 *
 * Each piece of text is put by `put(parent, from, to)`, in the order of the source, so that the caller may mark places
 * in it. No expression looks beyond its line, or back: time grows with the text.
 */

import { element, linkTo } from "./demo-elements.js";

const FENCE = /^ {0,3}```/;
const HEADING = /^(#{1,6}) +/;
const RULE = /^ {0,3}([-*_])( *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)]) +/;
/** Kinds of blocks that the next line can't go on with. */
const ONE_LINE = new Set(["heading", "rule"]);
/** In turn: code, strong, emphasis, a link, a bare address. */
const INLINE = new RegExp(
  [
    /`([^`\n]+)`/,
    /\*\*(?=\S)([^*\n]+)\*\*/,
    /\*(?=\S)([^*\n]+)\*/,
    /\[([^[\]\n]+)\]\(([^()\s]+)\)/,
    /https?:\/\/[^\s<>"'()[\]{}|\\^`*]+/,
  ]
    .map(({ source }) => source)
    .join("|"),
  "g",
);

/** The blocks of a text from one on: where each begins, and what it is. The last may still become another, and go on with the one before. */
export function blocksOf(text, from) {
  const blocks = [];
  let block = null;
  for (const line of linesOf(text, from)) {
    const kind = kindOf(line, block);
    if (kind === "blank") block = null;
    else if (block !== null && block.kind === kind && !ONE_LINE.has(kind) && !block.isClosed) block.lines.push(line);
    else blocks.push((block = { kind, from: line.from, lines: [line], isClosed: false }));
    if (block?.kind === "code") block.isClosed = block.lines.length > 1 && FENCE.test(line.text);
  }
  return blocks;
}

/** A block as a node. */
export function nodeOf({ kind, lines }, text, put) {
  const to = lines.at(-1).to;
  switch (kind) {
    case "code":
      return codeNode(lines, put);
    case "heading": {
      const [mark, level] = HEADING.exec(lines[0].text);
      return filled(element(level.length < 3 ? "h3" : "h4"), text, lines[0].from + mark.length, to, put);
    }
    case "rule":
      return element("hr");
    case "quote": {
      const quote = element("blockquote");
      for (const line of lines) inline(quote, text, line.from + QUOTE.exec(line.text)[0].length, line.next, put);
      return quote;
    }
    case "list":
      return listNode(lines, text, put);
    default:
      return filled(element("p"), text, lines[0].from, to, put);
  }
}

/** A line that isn't over yet may be no rule after all, and belong to the block before. */
function kindOf({ text: line, to, next }, block) {
  if (block?.kind === "code" && !block.isClosed) return "code";
  if (line.trim() === "") return "blank";
  if (FENCE.test(line)) return "code";
  if (HEADING.test(line)) return "heading";
  if (next > to && RULE.test(line)) return "rule";
  if (QUOTE.test(line)) return "quote";
  if (ITEM.test(line) || (block?.kind === "list" && line.startsWith("  "))) return "list";
  return "text";
}

function* linesOf(text, from) {
  while (from < text.length) {
    const end = text.indexOf("\n", from);
    const to = end === -1 ? text.length : end;
    const next = end === -1 ? to : end + 1;
    yield { from, to, next, text: text.slice(from, to) };
    from = next;
  }
}

function filled(node, text, from, to, put) {
  inline(node, text, from, to, put);
  return node;
}

function codeNode(lines, put) {
  const code = element("code");
  const isClosed = lines.length > 1 && FENCE.test(lines.at(-1).text);
  for (const { from, next } of lines.slice(1, isClosed ? -1 : undefined)) put(code, from, next);
  const box = element("pre");
  box.tabIndex = 0; // It may scroll.
  box.append(code);
  return box;
}

/** Lists in lists by their indents; a line without a mark goes on with the item before it. */
function listNode(lines, text, put) {
  const open = [];
  const root = element("div");
  for (const line of lines) {
    const [mark, { length: indent }, sign] = ITEM.exec(line.text) ?? ["", "", ""];
    if (mark === "") {
      inline(open.at(-1).list.lastElementChild, text, line.from - 1, line.to, put);
      continue;
    }
    const name = /\d/.test(sign) ? "ol" : "ul";
    const isOver = (list) => indent < list.indent || (indent === list.indent && name !== list.name);
    while (open.length > 0 && isOver(open.at(-1))) open.pop();
    if (open.length === 0 || indent > open.at(-1).indent) {
      const list = element(name);
      if (name === "ol") list.start = Number.parseInt(sign, 10);
      (open.at(-1)?.list.lastElementChild ?? root).append(list);
      open.push({ list, indent, name });
    }
    const item = open.at(-1).list.appendChild(element("li"));
    inline(item, text, line.from + mark.length, line.to, put);
  }
  return root.childElementCount === 1 ? root.firstElementChild : root;
}

function inline(parent, text, from, to, put) {
  let at = from;
  for (const match of text.slice(from, to).matchAll(INLINE)) {
    const span = spanOf(match);
    if (span === null) continue;
    const start = from + match.index;
    put(parent, at, start);
    const { node, skipped, inner, isPlain } = span;
    const first = start + skipped;
    if (isPlain) put(node, first, first + inner.length);
    else inline(node, text, first, first + inner.length, put);
    parent.append(node);
    at = start + span.length;
  }
  put(parent, at, to);
}

/** A piece of text that stands out; null for what is no link that we make. */
function spanOf([whole, code, strong, emphasis, label, address]) {
  const { length } = whole;
  if (code !== undefined) return { node: element("code"), length, skipped: 1, inner: code, isPlain: true };
  if (strong !== undefined) return { node: element("strong"), length, skipped: 2, inner: strong };
  if (emphasis !== undefined) return { node: element("em"), length, skipped: 1, inner: emphasis };
  const bare = label === undefined ? withoutStop(whole) : address;
  const node = linkTo(bare);
  if (node === null) return null;
  if (label !== undefined) return { node, length, skipped: 1, inner: label, isPlain: true };
  return { node, length: bare.length, skipped: 0, inner: bare, isPlain: true };
}

/** An address without the full stop of its sentence. */
function withoutStop(address) {
  let end = address.length;
  while (".,:;!?".includes(address[end - 1])) end -= 1;
  return address.slice(0, end);
}
