/** What a tab keeps of an answer under way, so that the page can read on after a reload. */

import type { Question } from "./wire.js";

/** Enough to come back: the cursor of the stream's beginning or, before it is known, the question and its key. */
export interface Kept {
  key: string;
  question?: Question | undefined;
  cursor?: string | undefined;
}

/** One name in a tab's storage. Storage that is missing, full or forbidden keeps nothing, and is no error. */
export class TabMemory {
  readonly #name: string;

  constructor(name: string) {
    this.#name = `subak:${name}`;
  }

  save(kept: Kept): void {
    attempt((storage) => storage.setItem(this.#name, JSON.stringify(kept)));
  }

  load(): Kept | null {
    const kept = attempt((storage) => JSON.parse(storage.getItem(this.#name) ?? "null") as Kept | null);
    return typeof kept?.key === "string" ? kept : null;
  }

  clear(): void {
    attempt((storage) => storage.removeItem(this.#name));
  }
}

function attempt<T>(use: (storage: Storage) => T): T | null {
  try {
    return use(sessionStorage);
  } catch {
    return null;
  }
}
