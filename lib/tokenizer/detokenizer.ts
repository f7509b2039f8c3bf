import type { Vocabulary } from './vocabulary.js';

/** A byte order mark is text like any other here: the model wrote it. */
const utf8 = new TextDecoder('utf-8', { ignoreBOM: true });

/**
 * The text of a sequence of tokens: their bytes, joined, as UTF-8, with U+FFFD where they are not.
 *
 * @param skipSpecial whether special tokens are left out
 * @throws {Qwen2Error} `invalid_argument` if an id is not an integer ≥ 0
 */
export function decodeTokens(vocabulary: Vocabulary, ids: Iterable<number>, skipSpecial: boolean): string {
  let joined = new Uint8Array(1024);
  let length = 0;
  for (const id of ids) {
    const bytes = vocabulary.bytesOf(id);
    if (skipSpecial && vocabulary.isSpecial(id)) continue;
    if (length + bytes.length > joined.length) {
      const larger = new Uint8Array(2 * (length + bytes.length));
      larger.set(joined);
      joined = larger;
    }
    joined.set(bytes, length);
    length += bytes.length;
  }
  return utf8.decode(joined.subarray(0, length));
}

/**
 * Decodes tokens as they come. Every `push` returns complete characters only: bytes that may be the beginning of a
 * character wait for the rest. All that `push` and `end` return, joined, is what `decodeTokens` gives for all ids.
 */
export class TokenStream {
  readonly #vocabulary: Vocabulary;
  readonly #skipSpecial: boolean;
  /** The beginning of a character, at most three bytes. */
  #pending: Uint8Array = new Uint8Array(0);

  constructor(vocabulary: Vocabulary, skipSpecial: boolean) {
    this.#vocabulary = vocabulary;
    this.#skipSpecial = skipSpecial;
  }

  /**
   * The text that the next token completes; may be empty.
   *
   * @throws {Qwen2Error} `invalid_argument` if the id is not an integer ≥ 0
   */
  push(id: number): string {
    let bytes = this.#vocabulary.bytesOf(id);
    if (bytes.length === 0 || (this.#skipSpecial && this.#vocabulary.isSpecial(id))) return '';
    if (this.#pending.length > 0) bytes = join(this.#pending, bytes);
    const complete = bytes.length - openCharacter(bytes);
    this.#pending = bytes.subarray(complete);
    return utf8.decode(bytes.subarray(0, complete));
  }

  /** What is left at the end: U+FFFD if the last character never became complete, else nothing. The stream is then new. */
  end(): string {
    const rest = utf8.decode(this.#pending);
    this.#pending = new Uint8Array(0);
    return rest;
  }
}

function join(a: Uint8Array, b: Uint8Array): Uint8Array {
  const joined = new Uint8Array(a.length + b.length);
  joined.set(a);
  joined.set(b, a.length);
  return joined;
}

/**
 * How many bytes at the end are a character that lacks its last bytes (0 to 3). They begin with a lead byte, and a lead
 * byte ends whatever came before it, so decoding before and after it apart gives the same text as decoding at once.
 */
function openCharacter(bytes: Uint8Array): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back]!;
    const isContinuation = (byte & 0xc0) === 0x80;
    if (!isContinuation) return characterLength(byte) > back ? back : 0;
  }
  return 0;
}

/** How many bytes the UTF-8 of a character has that begins with this byte; 1 if none does. */
function characterLength(lead: number): number {
  if (lead >= 0xc2 && lead <= 0xdf) return 2;
  if (lead >= 0xe0 && lead <= 0xef) return 3;
  if (lead >= 0xf0 && lead <= 0xf4) return 4;
  return 1;
}
