import { randomInt } from 'node:crypto';
import { AddedTokenSplitter } from './addedTokens.js';

/** One rendering. `protect` goes over everything that comes from outside, `split` over what the template makes of it. */
interface GuardSession {
  /** The value with all strings in it, however deep, made unable to be, begin or end a control token. */
  protect<T>(value: T): T;
  /** Text and control tokens in order, the marks taken out of the text. */
  split(rendered: string): (number | string)[];
}

/**
 * Keeps text that users write from becoming control tokens when a template puts it between its own: a secret mark is
 * put into every control token that the text spells, and where its ends could become one with what the template writes
 * beside them. The template sees the text otherwise unchanged, and so may compare, trim and cut it.
 */
export class ControlTokenGuard {
  readonly #contents: readonly string[];
  readonly #splitter: AddedTokenSplitter;

  /** @param tokens ids by content */
  constructor(tokens: ReadonlyMap<string, number>) {
    this.#contents = [...tokens.keys()].filter((content) => content.length > 1);
    this.#splitter = new AddedTokenSplitter(
      Array.from(tokens, ([content, id]) => ({ id, content, special: true, normalized: false })),
    );
  }

  session(): GuardSession {
    const mark = secretMark();
    return {
      protect: (value) => mapStrings(value, (text) => this.#protect(text, mark)),
      split: (rendered) => {
        const parts: (number | string)[] = [];
        for (const part of this.#splitter.split(rendered)) {
          const clean = typeof part === 'string' ? part.replaceAll(mark, '') : part;
          if (clean !== '') parts.push(clean);
        }
        return parts;
      },
    };
  }

  #protect(text: string, mark: string): string {
    let result = text;
    for (const content of this.#contents) {
      const cut = content.slice(0, -1) + mark + content.slice(-1);
      // Occurrences may overlap, and replaceAll finds every second one of those.
      while (result.includes(content)) result = result.replaceAll(content, () => cut);
    }
    const [, before, core, after] = /^(\s*)(.*?)(\s*)$/s.exec(result) as unknown as [string, string, string, string];
    if (core === '') return result;
    const mayEnd = this.#contents.some((content) => endsLike(content, core));
    const mayBegin = this.#contents.some((content) => beginsLike(content, core));
    return before + (mayEnd ? mark : '') + core + (mayBegin ? mark : '') + after;
  }
}

/** Whether text could be the rest of a token that something before it began, or lie within one. */
function endsLike(content: string, text: string): boolean {
  for (let at = 1; at < content.length; at++) if (text.startsWith(content.slice(at))) return true;
  return content.indexOf(text, 1) > 0;
}

/** Whether text could be the beginning of a token that something after it ends. */
function beginsLike(content: string, text: string): boolean {
  for (let length = 1; length < content.length; length++) if (text.endsWith(content.slice(0, length))) return true;
  return false;
}

/** Eight characters for private use out of 6,400: no text holds them in this order but by 1 chance in 10³⁰. */
function secretMark(): string {
  return String.fromCharCode(...Array.from({ length: 8 }, () => randomInt(0xe000, 0xf900)));
}

function mapStrings<T>(value: T, change: (text: string) => string): T {
  if (typeof value === 'string') return change(value) as T;
  if (Array.isArray(value)) return value.map((item) => mapStrings(item, change)) as T;
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, mapStrings(item, change)])) as T;
}
