import { setMaxListeners } from 'node:events';
import type { GenerationResult } from '../generation/generation.js';
import type { GenerateOptions, Model, Prompt } from '../generation/model.js';
import { Qwen2Error } from '../native/errors.js';
import type { ChatMessage } from '../tokenizer/chatTemplate.js';

/** One of many requests: a prompt or a conversation, and what `generate` takes beside it. */
export type BatchRequest = Omit<GenerateOptions, 'signal'> & {
  /** What its outcome is known by. Need not be unique. */
  id: string;
} & ({ prompt: Prompt; messages?: undefined } | { messages: readonly ChatMessage[]; prompt?: undefined });

/** What became of a request: a result, or an error of its own. */
export type BatchOutcome =
  | { id: string; result: GenerationResult; error?: undefined }
  | { id: string; error: Qwen2Error; result?: undefined };

export interface BatchProgress {
  /** Requests that have ended, and how many of them with an error. */
  finished: number;
  failed: number;
  /** Requests that were taken and have not ended. */
  running: number;
  /** Tokens of finished requests. */
  promptTokens: number;
  completionTokens: number;
  seconds: number;
}

export interface BatchOptions {
  /** Ends the batch with an error of code `aborted`. */
  signal?: AbortSignal | undefined;
  /** Requests that are taken at the same time: more than the model computes together, so that it never waits. */
  concurrency?: number | undefined;
  /**
   * Demands that each request gets the same tokens as alone, so that a batch can be repeated in another order, or in parts:
   * of a model that was loaded with `batchInvariant: true`. Of requests that are greedy or have a seed.
   */
  batchInvariant?: boolean | undefined;
  /** Called whenever a request has ended. */
  onProgress?: ((progress: BatchProgress) => void) | undefined;
}

/**
 * Generates for many requests, computed together as far as the model has room. Outcomes come as requests end, in any
 * order; one that fails does not stop the others.
 *
 * Requests are taken from the iterable as there is room, and outcomes wait to be taken: both memory and work stay bounded,
 * however long the input is and however slow the reader. Leaving the loop early ends what still runs.
 *
 * @throws (at iteration) aborted; whatever the iterable of requests throws
 * @throws invalid_argument for a concurrency out of range, or batchInvariant of a model without it
 */
export function generateBatch(
  model: Model,
  requests: Iterable<BatchRequest> | AsyncIterable<BatchRequest>,
  options: BatchOptions = {},
): AsyncIterable<BatchOutcome> {
  const { concurrency = 2 * model.memory.maxSequences + 16, batchInvariant = false } = options;
  if (typeof batchInvariant !== 'boolean')
    throw new Qwen2Error('invalid_argument', `batchInvariant must be true or false; got ${String(batchInvariant)}`);
  if (batchInvariant && !model.batchInvariant)
    throw new Qwen2Error(
      'invalid_argument',
      'The batch asks for batchInvariant, and the model was loaded without it; load it with batchInvariant: true',
    );
  if (!Number.isInteger(concurrency) || concurrency < 1)
    throw new Qwen2Error(
      'invalid_argument',
      `concurrency must be a whole number from 1 on; got ${String(options.concurrency)}`,
    );
  return { [Symbol.asyncIterator]: () => new Batch(model, requests, { ...options, concurrency }).outcomes() };
}

class Batch {
  readonly #model: Model;
  readonly #requests: Iterator<BatchRequest> | AsyncIterator<BatchRequest>;
  readonly #options: BatchOptions & { concurrency: number };
  readonly #stop = new AbortController();
  readonly #started = performance.now();
  /** Outcomes that nobody has taken. */
  readonly #ready: BatchOutcome[] = [];
  readonly #progress = { finished: 0, failed: 0, running: 0, promptTokens: 0, completionTokens: 0 };
  /** Whether a request is being taken from the input, and whether there are no more. */
  #taking = false;
  #exhausted = false;
  #failure: { cause: unknown } | undefined;
  #wake: () => void = () => {};

  constructor(
    model: Model,
    requests: Iterable<BatchRequest> | AsyncIterable<BatchRequest>,
    options: BatchOptions & { concurrency: number },
  ) {
    this.#model = model;
    this.#options = options;
    setMaxListeners(0, this.#stop.signal); // one a request
    this.#requests = Symbol.asyncIterator in requests ? requests[Symbol.asyncIterator]() : requests[Symbol.iterator]();
  }

  async *outcomes(): AsyncGenerator<BatchOutcome> {
    const { signal } = this.#options;
    const onAbort = () => this.#wake();
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      for (;;) {
        if (signal?.aborted)
          throw new Qwen2Error('aborted', 'The batch was aborted by its AbortSignal', { cause: signal.reason });
        if (this.#failure !== undefined) throw this.#failure.cause;
        void this.#take();
        const outcome = this.#ready.shift();
        if (outcome !== undefined) yield outcome;
        else if (this.#exhausted && this.#progress.running === 0) return;
        else
          await new Promise<void>((resolve) => {
            this.#wake = resolve;
          });
      }
    } finally {
      signal?.removeEventListener('abort', onAbort);
      this.#stop.abort();
      if (!this.#exhausted) await this.#requests.return?.();
    }
  }

  /** Takes requests while there is room for them and their outcomes. */
  async #take(): Promise<void> {
    if (this.#taking) return;
    this.#taking = true;
    try {
      while (!this.#exhausted && this.#progress.running + this.#ready.length < this.#options.concurrency) {
        const next = await this.#requests.next();
        if (next.done) this.#exhausted = true;
        else if (!this.#stop.signal.aborted) void this.#run(next.value);
      }
    } catch (cause) {
      this.#exhausted = true;
      this.#failure = { cause };
    } finally {
      this.#taking = false;
      this.#wake();
    }
  }

  async #run(request: BatchRequest): Promise<void> {
    this.#progress.running++;
    const outcome = await this.#outcomeOf(request);
    this.#progress.running--;
    if (this.#stop.signal.aborted) return;
    this.#progress.finished++;
    if (outcome.error) this.#progress.failed++;
    else {
      this.#progress.promptTokens += outcome.result.usage.promptTokens;
      this.#progress.completionTokens += outcome.result.usage.completionTokens;
    }
    this.#ready.push(outcome);
    this.#options.onProgress?.({ ...this.#progress, seconds: (performance.now() - this.#started) / 1000 });
    this.#wake();
  }

  async #outcomeOf(request: BatchRequest): Promise<BatchOutcome> {
    const { id, prompt, messages, ...given } = request;
    try {
      if ((prompt === undefined) === (messages === undefined))
        throw new Qwen2Error('invalid_argument', 'A request has a prompt or messages, one of them');
      const options = { ...given, signal: this.#stop.signal };
      const generation =
        messages === undefined ? this.#model.generate(prompt!, options) : this.#model.chat(messages, options);
      return { id, result: await generation.result() };
    } catch (error) {
      if (error instanceof Qwen2Error) return { id, error };
      return { id, error: new Qwen2Error('internal', `The request failed: ${String(error)}`, { cause: error }) };
    }
  }
}
