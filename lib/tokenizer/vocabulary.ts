import { Qwen2Error } from '../native/errors.js';

/** A token beside the BPE vocabulary: a control token, or text that fine-tuning made one token. */
export interface AddedToken {
  readonly id: number;
  readonly content: string;
  /** A special token structures the input and is not text: decoding leaves it out unless asked. */
  readonly special: boolean;
  /** Whether it is looked for in the text after Unicode normalization (true) or as it was typed (false). */
  readonly normalized: boolean;
}

/** What ids stand for, in a form that moves between threads without being copied. */
export interface VocabularyData {
  /** The bytes of all tokens, one after the other. */
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** Where each token's bytes begin, and at the end where the last one's end: vocabulary size + 1 entries. */
  readonly offsets: Uint32Array<ArrayBuffer>;
  readonly addedTokens: readonly AddedToken[];
}

/** Token ids to bytes. Ids without a token, inside the vocabulary or beyond it, have no bytes. */
export class Vocabulary {
  readonly addedTokens: readonly AddedToken[];
  readonly #bytes: Uint8Array;
  readonly #offsets: Uint32Array;
  readonly #special: ReadonlySet<number>;
  readonly #addedIds: ReadonlyMap<string, number>;

  constructor(data: VocabularyData) {
    this.addedTokens = data.addedTokens;
    this.#bytes = data.bytes;
    this.#offsets = data.offsets;
    this.#special = new Set(data.addedTokens.filter((token) => token.special).map((token) => token.id));
    this.#addedIds = new Map(data.addedTokens.map((token) => [token.content, token.id]));
  }

  /** One more than the highest id that has a token. */
  get size(): number {
    return this.#offsets.length - 1;
  }

  get specialIds(): ReadonlySet<number> {
    return this.#special;
  }

  /**
   * The bytes of a token: a view of the table, not to be written to.
   *
   * @throws {Qwen2Error} `invalid_argument` if the id is not an integer ≥ 0
   */
  bytesOf(id: number): Uint8Array {
    if (!Number.isInteger(id) || id < 0) {
      throw new Qwen2Error('invalid_argument', `a token id is an integer from 0 on; got ${String(id)}`);
    }
    return id < this.size ? this.#bytes.subarray(this.#offsets[id]!, this.#offsets[id + 1]!) : nothing;
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id);
  }

  addedId(content: string): number | undefined {
    return this.#addedIds.get(content);
  }
}

const nothing = new Uint8Array(0);
