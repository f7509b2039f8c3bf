/** What came of a piece of text. */
export interface Matched {
  /** Text that is certainly before any stop string. */
  text: string;
  /** Whether a stop string was completed; it and what follows are gone. */
  stopped: boolean;
}

/**
 * Looks for stop strings in text that arrives in pieces, and holds back what may be the beginning of one. Knuth, Morris and
 * Pratt's automaton for each string (SIAM J. Comput. 6, 1977): the time grows with the text, however long the strings are.
 */
export class StopStrings {
  readonly #patterns: readonly Pattern[];
  #held = '';

  constructor(strings: readonly string[]) {
    this.#patterns = strings.map((string) => new Pattern(string));
  }

  /** @param mayStop whether a stop string that ends in this piece counts */
  push(piece: string, mayStop: boolean): Matched {
    const text = this.#held + piece;
    for (let i = this.#held.length; i < text.length; i++) {
      const found = this.#patterns.filter((pattern) => pattern.accepts(text.charCodeAt(i)));
      if (found.length === 0 || !mayStop) continue;
      const longest = Math.max(...found.map(({ length }) => length));
      this.#held = '';
      return { text: text.slice(0, i + 1 - longest), stopped: true };
    }
    const held = Math.max(0, ...this.#patterns.map(({ matched }) => matched));
    this.#held = text.slice(text.length - held);
    return { text: text.slice(0, text.length - held), stopped: false };
  }

  /** What is held back, when nothing more comes. */
  end(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }
}

class Pattern {
  /** How many characters of the pattern the text so far ends with. */
  matched = 0;
  readonly #string: string;
  /** For each prefix: the length of its longest proper prefix that is also its suffix. */
  readonly #borders: Int32Array;

  constructor(string: string) {
    this.#string = string;
    this.#borders = new Int32Array(string.length);
    for (let i = 1; i < string.length; i++)
      this.#borders[i] = this.#advance(this.#borders[i - 1]!, string.charCodeAt(i));
  }

  get length(): number {
    return this.#string.length;
  }

  /** Takes the next character; true if it completes the pattern. */
  accepts(code: number): boolean {
    this.matched = this.#advance(this.matched, code);
    if (this.matched < this.#string.length) return false;
    this.matched = this.#borders[this.matched - 1]!;
    return true;
  }

  #advance(matched: number, code: number): number {
    let length = matched;
    while (length > 0 && this.#string.charCodeAt(length) !== code) length = this.#borders[length - 1]!;
    return this.#string.charCodeAt(length) === code ? length + 1 : 0;
  }
}
