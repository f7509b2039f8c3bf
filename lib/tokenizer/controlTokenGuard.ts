import { randomInt } from 'node:crypto';
import { Qwen2Error } from '../native/errors.js';
import { AddedTokenSplitter, escapePattern } from './addedTokens.js';

/** One rendering. `protect` goes over everything that comes from outside, `split` over what the template makes of it. */
interface GuardSession {
  /**
   * The value with all strings in it, however deep, made unable to be, begin or end a control token.
   *
   * @throws invalid_argument if it is nested too deep, or contains itself
   */
  protect<T>(value: T): T;
  /** Text and control tokens in order, the marks taken out of the text. */
  split(rendered: string): (number | string)[];
}

/**
 * Keeps text that users write from becoming control tokens when a template puts it between its own. A secret mark parts
 * the first two and the last two characters of every control token wherever they stand side by side in the text, so that
 * neither a token nor a larger part of one is left in it; and a mark stands at either end where a single character could
 * become a token with what the template writes beside it. The template sees the text otherwise unchanged, and so may
 * compare, trim, join and filter it.
 */
export class ControlTokenGuard {
  readonly #contents: readonly string[];
  readonly #splitter: AddedTokenSplitter;
  /** Finds where marks go: after each match. */
  readonly #pairs: RegExp;

  /** @param tokens ids by content */
  constructor(tokens: ReadonlyMap<string, number>) {
    this.#contents = [...tokens.keys()].filter((content) => content.length > 1);
    this.#splitter = new AddedTokenSplitter(
      Array.from(tokens, ([content, id]) => ({ id, content, special: true, normalized: false })),
    );
    const pairs = new Set(this.#contents.flatMap((content) => [content.slice(0, 2), content.slice(-2)]));
    const patterns = Array.from(
      pairs,
      (pair) => `${escapePattern(pair.charAt(0))}(?=${escapePattern(pair.charAt(1))})`,
    );
    this.#pairs = new RegExp(patterns.join('|') || '(?!)', 'g');
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
    const parted = text.replace(this.#pairs, `$&${mark}`);
    // Marks stand at the ends of what trimming leaves.
    const begin = parted.length - parted.trimStart().length;
    const end = parted.trimEnd().length;
    if (begin >= end) return parted;
    const core = parted.slice(begin, end);
    const within = this.#contents.some((content) => content.includes(core));
    const mayEnd = within || this.#contents.some((content) => core.startsWith(content.slice(-1)));
    const mayBegin = within || this.#contents.some((content) => core.endsWith(content.charAt(0)));
    return parted.slice(0, begin) + (mayEnd ? mark : '') + core + (mayBegin ? mark : '') + parted.slice(end);
  }
}

/** Eight characters for private use out of 6,400: no text holds them in this order but by 1 chance in 10³⁰. */
function secretMark(): string {
  return String.fromCharCode(...Array.from({ length: 8 }, () => randomInt(0xe000, 0xf900)));
}

/** No tool's description nests as deep; what contains itself does. */
const maxDepth = 256;

/** The value with its strings changed, and its objects' keys but for plain words, by which templates look fields up. */
function mapStrings<T>(value: T, change: (text: string) => string, depth = 0): T {
  if (typeof value === 'string') return change(value) as T;
  if (typeof value !== 'object' || value === null) return value;
  if (depth === maxDepth)
    throw new Qwen2Error(
      'invalid_argument',
      `Messages and tools must be plain data; these nest more than ${maxDepth} deep, or contain themselves`,
    );
  const changeIn = (item: unknown) => mapStrings(item, change, depth + 1);
  if (Array.isArray(value)) return value.map(changeIn) as T;
  const changeKey = (key: string) => (/^\w*$/.test(key) ? key : change(key));
  return Object.fromEntries(Object.entries(value).map(([key, item]) => [changeKey(key), changeIn(item)])) as T;
}
