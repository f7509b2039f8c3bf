import type { FinishReason, Logprobs } from '../engine/sequence.js';
import type { TokenStream } from '../tokenizer/detokenizer.js';
import { StopStrings } from './stopStrings.js';

/** One finished continuation. */
export interface ChoiceResult {
  /** Which of the n continuations this is, from 0 on. */
  index: number;
  /** Without the stop string, stop token or special tokens. Empty where the model has no tokenizer. */
  text: string;
  /** All generated tokens, with the one that ended it. */
  tokens: number[];
  finishReason: FinishReason;
  /** One entry a token, if `logprobs` was set. */
  logprobs?: Logprobs[];
}

/** A piece of a continuation, as it is made. Joined, the pieces of a choice are its result. */
export interface Piece {
  /** Which of the n continuations it belongs to. */
  index: number;
  /** Complete characters only. */
  text: string;
  tokens: number[];
  logprobs?: Logprobs[];
  /** On the last piece of a choice. */
  finishReason?: FinishReason;
}

/** Turns the tokens of one continuation into pieces of text. */
export class Choice {
  readonly #index: number;
  readonly #stream: TokenStream | undefined;
  readonly #stops: StopStrings;
  readonly #minTokens: number;
  readonly #endTokens: ReadonlySet<number>;
  readonly #emit: (piece: Piece) => void;
  readonly #result: ChoiceResult;
  /** Tokens whose text is not complete, or may be the beginning of a stop string. */
  #tokens: number[] = [];
  #logprobs: Logprobs[] = [];
  #hasText = true;

  /** @param endTokens tokens that end the generation and are not part of its text */
  constructor(
    index: number,
    stream: TokenStream | undefined,
    { stop, minTokens, logprobs }: { stop: readonly string[]; minTokens: number; logprobs: number | undefined },
    endTokens: ReadonlySet<number>,
    emit: (piece: Piece) => void,
  ) {
    this.#index = index;
    this.#stream = stream;
    this.#stops = new StopStrings(stop);
    this.#minTokens = minTokens;
    this.#endTokens = endTokens;
    this.#emit = emit;
    this.#result = { index, text: '', tokens: [], finishReason: 'abort' };
    if (logprobs !== undefined) this.#result.logprobs = [];
  }

  get result(): ChoiceResult {
    return this.#result;
  }

  /** Takes a token; true if a stop string ends the continuation with it. */
  push(token: number, logprobs: Logprobs | undefined): boolean {
    this.#result.tokens.push(token);
    this.#tokens.push(token);
    if (logprobs !== undefined) {
      this.#result.logprobs?.push(logprobs);
      this.#logprobs.push(logprobs);
    }
    if (this.#endTokens.has(token)) return false;
    const piece = this.#stream?.push(token) ?? '';
    const { text, stopped } = this.#stops.push(piece, this.#result.tokens.length > this.#minTokens);
    if (stopped) this.#hasText = false;
    if (text !== '' || (this.#stream === undefined && !stopped)) this.#send(text);
    return stopped;
  }

  end(finishReason: FinishReason): void {
    this.#result.finishReason = finishReason;
    let rest = '';
    if (this.#hasText) {
      const last = this.#stops.push(this.#stream?.end() ?? '', true);
      rest = last.stopped ? last.text : last.text + this.#stops.end();
    }
    this.#send(rest, finishReason);
  }

  #send(text: string, finishReason?: FinishReason): void {
    this.#result.text += text;
    const piece: Piece = { index: this.#index, text, tokens: this.#tokens };
    if (this.#result.logprobs !== undefined) piece.logprobs = this.#logprobs;
    if (finishReason !== undefined) piece.finishReason = finishReason;
    this.#tokens = [];
    this.#logprobs = [];
    this.#emit(piece);
  }
}
