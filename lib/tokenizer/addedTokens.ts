import type { AddedToken } from './vocabulary.js';

/** Finds added tokens in text: from left to right, and the longest where several begin. */
export class AddedTokenSplitter {
  readonly #pattern: RegExp | undefined;
  readonly #ids: ReadonlyMap<string, number>;

  constructor(tokens: readonly AddedToken[]) {
    this.#ids = new Map(tokens.map(({ content, id }) => [content, id]));
    const longestFirst = [...this.#ids.keys()].sort((a, b) => b.length - a.length);
    if (longestFirst.length > 0) this.#pattern = new RegExp(longestFirst.map(escapePattern).join('|'), 'gu');
  }

  /** The text's parts in order: an added token's id, or text between two of them. No part is empty. */
  *split(text: string): Generator<number | string> {
    let end = 0;
    if (this.#pattern !== undefined) {
      for (const { 0: content, index } of text.matchAll(this.#pattern)) {
        if (index > end) yield text.slice(end, index);
        yield this.#ids.get(content)!;
        end = index + content.length;
      }
    }
    if (end < text.length) yield text.slice(end);
  }
}

/** The text as a regular expression that matches just it. */
export function escapePattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&');
}
