import type { Engine } from '../engine/engine.js';
import type { Logprobs, Sequence } from '../engine/sequence.js';
import { Qwen2Error } from '../native/errors.js';
import type { ResolvedSamplingParameters } from '../sampler/parameters.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { Choice, type ChoiceResult, type Piece } from './choice.js';

export interface Usage {
  promptTokens: number;
  /** Of all choices together. */
  completionTokens: number;
}

/** A finished generation: the first choice, and all of them. */
export interface GenerationResult extends Omit<ChoiceResult, 'index'> {
  usage: Usage;
  /** The n continuations, in the order of their index. */
  choices: ChoiceResult[];
  /** One entry a prompt token, the first one null, if `promptLogprobs` was set. */
  promptLogprobs?: (Logprobs | null)[];
}

/** What a generation is made of. */
export interface GenerationJob {
  engine: Engine;
  tokenizer: Tokenizer | undefined;
  parameters: ResolvedSamplingParameters;
  /** The checkpoint's end-of-sequence tokens. */
  eosTokens: readonly number[];
  priority: number;
  signal: AbortSignal | undefined;
  /** The prompt's tokens; checked. */
  prompt(): Promise<readonly number[]>;
}

/**
 * Text in the making. Iterate it for pieces as they come, or await `result()`, or both; the work goes on either way.
 * Leaving the loop early, or the AbortSignal, ends it: `result()` then has what was made so far, with finishReason
 * 'abort'.
 */
export class Generation implements AsyncIterable<Piece> {
  readonly #job: GenerationJob;
  readonly #sequences: Sequence[] = [];
  readonly #choices: Choice[];
  readonly #pieces: Piece[] = [];
  readonly #promptLogprobs: (Logprobs | null)[] = [];
  readonly #result: Promise<GenerationResult>;
  readonly #onAbort = () => this.#abort();
  #promptTokens = 0;
  #unfinished: number;
  #aborted = false;
  #iterated = false;
  #finished = false;
  #settle!: { resolve(result: GenerationResult): void; reject(error: unknown): void };
  #wake: () => void = () => {};

  constructor(job: GenerationJob) {
    this.#job = job;
    const { parameters, tokenizer } = job;
    const endTokens = this.#endTokens();
    this.#unfinished = parameters.n;
    this.#choices = Array.from(
      { length: parameters.n },
      (_, index) => new Choice(index, tokenizer?.stream(), parameters, endTokens, (piece) => this.#push(piece)),
    );
    this.#result = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
    });
    // Whoever iterates hears of an error there.
    this.#result.catch(() => {});
    job.signal?.addEventListener('abort', this.#onAbort, { once: true });
    void this.#start(endTokens);
  }

  /** The whole. Rejects with Qwen2Error `context_overflow`, `invalid_argument`, or what went wrong on the device. */
  result(): Promise<GenerationResult> {
    return this.#result;
  }

  /** The pieces, each once: a generation can be iterated one time. */
  async *[Symbol.asyncIterator](): AsyncIterator<Piece> {
    if (this.#iterated)
      throw new Qwen2Error('invalid_argument', 'A generation can be iterated only once; use result()');
    this.#iterated = true;
    try {
      for (;;) {
        const pieces = this.#pieces.splice(0);
        yield* pieces;
        if (pieces.length > 0) continue;
        if (this.#finished) break;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
      await this.#result;
    } finally {
      this.#abort();
    }
  }

  #endTokens(): ReadonlySet<number> {
    const { parameters, eosTokens } = this.#job;
    return new Set([...parameters.stopTokenIds, ...(parameters.ignoreEos ? [] : eosTokens)]);
  }

  async #start(stopTokens: ReadonlySet<number>): Promise<void> {
    const { engine, parameters, priority, signal } = this.#job;
    try {
      if (signal?.aborted) this.#aborted = true;
      const prompt = this.#aborted ? [] : await this.#job.prompt();
      if (this.#aborted) {
        for (const choice of this.#choices) this.#endChoice(choice, 'abort');
        return;
      }
      this.#promptTokens = prompt.length;
      const room = engine.plan.contextLength - prompt.length;
      const maxTokens = Math.min(parameters.maxTokens ?? room, room);
      for (const choice of this.#choices) {
        const request = {
          prompt,
          parameters: this.#parametersOf(choice),
          stopTokens,
          maxTokens,
          priority,
          choice: choice.result.index,
        };
        this.#sequences.push(engine.submit(request, this.#listener(choice)));
      }
    } catch (error) {
      if (this.#aborted || isDisposed(error)) for (const choice of this.#choices) this.#endChoice(choice, 'abort');
      else this.#fail(error);
    }
  }

  /** Prompt log-probabilities are the same for all choices, and computed with the first. */
  #parametersOf(choice: Choice): ResolvedSamplingParameters {
    const { parameters } = this.#job;
    return choice.result.index === 0 ? parameters : { ...parameters, promptLogprobs: undefined };
  }

  #listener(choice: Choice) {
    return {
      onToken: (token: number, logprobs: Logprobs | undefined) => choice.push(token, logprobs),
      onPromptLogprobs: (first: number, logprobs: Logprobs[]) => {
        for (const [i, entry] of logprobs.entries()) this.#promptLogprobs[first + i] = entry;
      },
      onEnd: (reason: 'stop' | 'length' | 'abort') => this.#endChoice(choice, reason),
      onError: (error: unknown) => this.#fail(error),
    };
  }

  #push(piece: Piece): void {
    this.#pieces.push(piece);
    this.#wake();
  }

  #endChoice(choice: Choice, reason: 'stop' | 'length' | 'abort'): void {
    choice.end(reason);
    if (--this.#unfinished === 0) this.#finish();
  }

  #finish(): void {
    const choices = this.#choices.map(({ result }) => result);
    const { index: _, ...first } = choices[0]!;
    const completionTokens = choices.reduce((sum, { tokens }) => sum + tokens.length, 0);
    const result: GenerationResult = {
      ...first,
      usage: { promptTokens: this.#promptTokens, completionTokens },
      choices,
    };
    if (this.#job.parameters.promptLogprobs !== undefined)
      result.promptLogprobs = Array.from({ length: this.#promptTokens }, (_, i) => this.#promptLogprobs[i] ?? null);
    this.#close();
    this.#settle.resolve(result);
  }

  #fail(error: unknown): void {
    if (this.#finished) return;
    this.#close();
    this.#settle.reject(error);
    this.#abort();
  }

  #close(): void {
    this.#finished = true;
    this.#job.signal?.removeEventListener('abort', this.#onAbort);
    this.#wake();
  }

  #abort(): void {
    this.#aborted = true;
    for (const sequence of this.#sequences) this.#job.engine.abort(sequence);
  }
}

/** Whether the model was disposed since the generation began: that ends generations, as the signal does. */
function isDisposed(error: unknown): boolean {
  return error instanceof Qwen2Error && error.code === 'disposed';
}
