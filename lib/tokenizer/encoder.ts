import { Qwen2Error } from '../native/errors.js';
import { AddedTokenSplitter } from './addedTokens.js';
import { BytePairEncoder } from './bytePairEncoder.js';
import type { TokenizerDefinition } from './definition.js';
import { normalizeNfc, replaceLoneSurrogates } from './normalization.js';

export interface EncodeSettings {
  /** Whether special tokens in the text become their ids; otherwise they are text like any other. */
  parseSpecial: boolean;
  /** Asked from time to time; true ends the work with an error of code `aborted`. */
  isCancelled?: () => boolean;
}

/**
 * Text to token ids, as Hugging Face's tokenizers library does it for Qwen2: added tokens are cut out, the rest is
 * normalized and cut into pieces by a regular expression, and each piece goes through byte-pair encoding.
 */
export class Encoder {
  readonly #definition: TokenizerDefinition;
  readonly #bytePairs: BytePairEncoder;
  /** By parseSpecial: tokens to be found before normalization, and after it. */
  readonly #splitters: Record<'all' | 'text', [AddedTokenSplitter, AddedTokenSplitter]>;
  readonly #utf8 = new TextEncoder();
  #bytes = new Uint8Array(1 << 10);

  constructor(definition: TokenizerDefinition) {
    this.#definition = definition;
    this.#bytePairs = new BytePairEncoder(definition.byteIds, definition.merges);
    const { addedTokens } = definition.vocabulary;
    const splitters = (tokens: typeof addedTokens): [AddedTokenSplitter, AddedTokenSplitter] => [
      new AddedTokenSplitter(tokens.filter(({ normalized }) => !normalized)),
      new AddedTokenSplitter(tokens.filter(({ normalized }) => normalized)),
    ];
    this.#splitters = { all: splitters(addedTokens), text: splitters(addedTokens.filter(({ special }) => !special)) };
  }

  /** @throws aborted; unsupported for a piece of tens of millions of characters */
  encode(text: string, { parseSpecial, isCancelled = () => false }: EncodeSettings): number[] {
    const [before, after] = this.#splitters[parseSpecial ? 'all' : 'text'];
    const ids: number[] = [];
    for (const part of before.split(replaceLoneSurrogates(text))) {
      if (typeof part === 'number') ids.push(part);
      else this.#encodePart(this.#definition.normalizes ? normalizeNfc(part) : part, after, ids, isCancelled);
    }
    return ids;
  }

  #encodePart(text: string, splitter: AddedTokenSplitter, ids: number[], isCancelled: () => boolean): void {
    for (const part of splitter.split(text)) {
      if (typeof part === 'number') {
        ids.push(part);
        continue;
      }
      for (const piece of this.#pieces(part)) {
        if (isCancelled()) throw new Qwen2Error('aborted', 'The encoding was aborted by its AbortSignal');
        this.#encodePiece(piece, ids);
      }
    }
  }

  /** The pattern's matches, and what lies between them. */
  *#pieces(text: string): Generator<string> {
    let end = 0;
    try {
      for (const { 0: piece, index } of text.matchAll(this.#definition.pieces)) {
        if (index > end) yield text.slice(end, index);
        if (piece !== '') yield piece;
        end = index + piece.length;
      }
    } catch (cause) {
      // The engine of JavaScript's regular expressions keeps a stack whose size grows with a match's length.
      if (!(cause instanceof RangeError)) throw cause;
      const message = `After ${end} of ${text.length} characters comes a word too long for a regular expression; cut the text into parts`;
      throw new Qwen2Error('unsupported', message, { cause });
    }
    if (end < text.length) yield text.slice(end);
  }

  #encodePiece(piece: string, ids: number[]): void {
    // A UTF-16 unit takes three bytes of UTF-8 at most.
    if (this.#bytes.length < 3 * piece.length) this.#bytes = new Uint8Array(4 * piece.length);
    const { written } = this.#utf8.encodeInto(piece, this.#bytes);
    this.#bytePairs.encode(this.#bytes, written, ids);
  }
}
