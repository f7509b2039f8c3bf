import type { EventEmitter } from 'node:events';
import type { Qwen2Config } from '../checkpoint/config.js';
import type { GenerationConfig } from '../checkpoint/generationConfig.js';
import type { Engine } from '../engine/engine.js';
import type { Sequence } from '../engine/sequence.js';
import type { EngineEvents, EngineStats } from '../engine/statistics.js';
import { blockSize } from '../model/kvCache.js';
import { parameterCount, type Weights } from '../model/weights.js';
import type { Device } from '../native/device.js';
import { Qwen2Error, throwIfAborted } from '../native/errors.js';
import type { Stream } from '../native/stream.js';
import { resolveSamplingParameters, type SamplingParameters } from '../sampler/parameters.js';
import { maxLogprobs } from '../sampler/sampler.js';
import type { ChatMessage } from '../tokenizer/chatTemplate.js';
import type { Tokenizer } from '../tokenizer/tokenizer.js';
import { Generation } from './generation.js';

/** Text, or token ids for a model without a tokenizer or for callers with their own. */
export type Prompt = string | { tokens: readonly number[] };

export interface GenerateOptions extends SamplingParameters {
  /**
   * Lower ones are served first. Default 0. Each step of priority is worth a thousand arrivals, so that what waits long
   * enough is served before anything that comes later.
   */
  priority?: number | undefined;
  /** Ends the generation when it fires. */
  signal?: AbortSignal | undefined;
}

export interface ComputeOptions {
  /** Ends the computation with an error of code `aborted` when it fires. */
  signal?: AbortSignal | undefined;
}

export interface Score {
  tokens: number[];
  /** Natural logarithm of each token's probability after those before it; null for the first, which follows nothing. */
  logprobs: (number | null)[];
  /** Of all tokens but the first. */
  sum: number;
}

/** A model's memory on its device, in bytes, and what that has room for. */
export interface ModelMemory {
  weightBytes: number;
  cacheBytes: number;
  workspaceBytes: number;
  /** What generating one token reads of the weights. */
  decodeWeightBytes: number;
  /** What generating a token reads of the KV cache, for each token before it. */
  cacheBytesPerToken: number;
  /** Tokens of all sequences that the KV cache has room for. */
  cacheTokens: number;
  /** Sequences that are computed together at most. */
  maxSequences: number;
}

/** What a Model is made of; all of it belongs to the model. */
export interface ModelParts {
  config: Qwen2Config;
  generationConfig: GenerationConfig;
  device: Device;
  stream: Stream;
  weights: Weights;
  engine: Engine;
  tokenizer: Tokenizer | undefined;
  batchInvariant: boolean;
  loadSeconds: number;
}

/** A Qwen2 on a device, made by `loadModel`. Its memory is returned by `dispose`. */
export class Model {
  readonly config: Qwen2Config;
  /** Sampling parameters that the checkpoint recommends, used where a caller says nothing. */
  readonly generationConfig: GenerationConfig;
  /** Tokens of a prompt and its continuation together, at most. */
  readonly contextLength: number;
  /** Whether a request's tokens depend on nothing beside it: `batchInvariant` of `loadModel`. */
  readonly batchInvariant: boolean;
  readonly loadSeconds: number;
  readonly memory: ModelMemory;
  readonly #parts: ModelParts;
  #disposed: Promise<void> | undefined;

  constructor(parts: ModelParts) {
    this.#parts = parts;
    this.config = parts.config;
    this.generationConfig = parts.generationConfig;
    this.contextLength = parts.engine.plan.contextLength;
    this.batchInvariant = parts.batchInvariant;
    this.loadSeconds = parts.loadSeconds;
    this.memory = memoryOf(parts);
  }

  /** The device's name: 'cpu', 'cuda' … */
  get device(): string {
    return this.#parts.device.name;
  }

  /** Tied embeddings count once. */
  get parameters(): number {
    return parameterCount(this.config);
  }

  get hasTokenizer(): boolean {
    return this.#parts.tokenizer !== undefined;
  }

  /** @throws unsupported if the checkpoint has no tokenizer files */
  get tokenizer(): Tokenizer {
    if (this.#parts.tokenizer !== undefined) return this.#parts.tokenizer;
    throw new Qwen2Error(
      'unsupported',
      'This model has no tokenizer: its folder has no tokenizer.json. Pass token ids, { tokens: [...] }, or add the file',
    );
  }

  /**
   * Continues a prompt. Control tokens in a text are plain text; `tokenizer.encode(text, { parseSpecial: true })` makes
   * ids of them.
   *
   * @throws invalid_argument at once for a parameter that is unknown or out of range; later errors reject the generation
   */
  generate(prompt: Prompt, options: GenerateOptions = {}): Generation {
    return this.#generate((signal) => this.#encode(prompt, signal), options);
  }

  /** Answers a conversation, by the checkpoint's chat template. Message contents can't forge control tokens. */
  chat(messages: readonly ChatMessage[], options: GenerateOptions = {}): Generation {
    return this.#generate(
      async (signal) => this.#checked(await this.tokenizer.encodeChat(messages, { signal })),
      options,
    );
  }

  /** The logits after each token: Float32Array of [tokens, vocabulary], row-major. */
  async logits(prompt: readonly number[] | Prompt, options: ComputeOptions = {}): Promise<Float32Array> {
    this.#requireAlive();
    const { signal } = checkedOptions(options);
    const tokens = Array.isArray(prompt) ? this.#checked(prompt) : await this.#encode(prompt as Prompt, signal);
    const width = this.config.vocabularySize;
    const logits = allocateLogits(tokens.length, width);
    await this.#compute(tokens, signal, undefined, {
      onPromptLogits: (first: number, rows: Float32Array) => logits.set(rows, first * width),
    });
    return logits;
  }

  /** How probable the model finds each token of a text. */
  async score(prompt: Prompt, options: ComputeOptions = {}): Promise<Score> {
    this.#requireAlive();
    const { signal } = checkedOptions(options);
    const tokens = await this.#encode(prompt, signal);
    const logprobs = new Array<number | null>(tokens.length).fill(null);
    await this.#compute(tokens, signal, 0, {
      onPromptLogprobs: (first: number, entries: { logprob: number }[]) => {
        for (const [i, { logprob }] of entries.entries()) logprobs[first + i] = logprob;
      },
    });
    const sum = logprobs.reduce<number>((total, logprob) => total + (logprob ?? 0), 0);
    return { tokens: [...tokens], logprobs, sum };
  }

  /** What the model does, and has done since it was loaded. */
  stats(): EngineStats {
    return this.#parts.engine.stats();
  }

  /** 'step' after every step that was computed, 'end' for every continuation that has ended. Listeners must be quick; what
   * they throw is an uncaught exception. */
  get events(): EventEmitter<EngineEvents> {
    return this.#parts.engine.events;
  }

  /** Ends running generations with finishReason 'abort', and resolves when all device memory has been returned. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#free();
    return this.#disposed;
  }

  /** For `await using`, in TypeScript and on Node 24. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.dispose();
  }

  async #free(): Promise<void> {
    const { engine, tokenizer, weights, stream, device } = this.#parts;
    await engine.dispose();
    await tokenizer?.dispose();
    await weights.dispose();
    stream.dispose();
    device.dispose();
  }

  #generate(
    prompt: (signal: AbortSignal | undefined) => Promise<readonly number[]>,
    options: GenerateOptions,
  ): Generation {
    this.#requireAlive();
    const { signal, priority = 0, ...given } = checkedOptions(options);
    if (!Number.isFinite(priority))
      throw new Qwen2Error('invalid_argument', `priority must be a number; got ${String(priority)}`);
    const { generationConfig, engine, tokenizer } = this.#parts;
    const limits = { vocabularySize: this.config.vocabularySize, maxLogprobs };
    const parameters = resolveSamplingParameters(given, generationConfig, limits);
    if (parameters.stop.length > 0 && tokenizer === undefined)
      throw new Qwen2Error(
        'invalid_argument',
        'stop strings need a tokenizer, which this model lacks; use stopTokenIds',
      );
    const eosTokens = generationConfig.eosTokenIds.filter((id) => id < limits.vocabularySize);
    return new Generation({ engine, tokenizer, parameters, eosTokens, priority, signal, prompt: () => prompt(signal) });
  }

  async #encode(prompt: Prompt, signal: AbortSignal | undefined): Promise<readonly number[]> {
    if (typeof prompt === 'string') return this.#checked(await this.tokenizer.encode(prompt, { signal }));
    if (Array.isArray(prompt?.tokens)) return this.#checked(prompt.tokens);
    throw new Qwen2Error('invalid_argument', `A prompt is a string or { tokens: number[] }; got ${typeof prompt}`);
  }

  /** A copy, so that the caller may go on to change the array. */
  #checked(given: readonly number[]): readonly number[] {
    const tokens = [...given];
    const { vocabularySize } = this.config;
    if (tokens.length === 0)
      throw new Qwen2Error('invalid_argument', 'The prompt has no tokens; it needs one at least');
    const wrong = tokens.findIndex((id) => !Number.isInteger(id) || id < 0 || id >= vocabularySize);
    if (wrong >= 0)
      throw new Qwen2Error(
        'invalid_argument',
        `Token ${wrong} of the prompt is ${String(tokens[wrong])}; ids are whole numbers from 0 to ${vocabularySize - 1}`,
      );
    if (tokens.length >= this.contextLength)
      throw new Qwen2Error(
        'context_overflow',
        `The prompt has ${tokens.length} tokens, and the context is ${this.contextLength} with the answer; shorten it` +
          (this.contextLength < this.config.contextLength ? ', or load the model with a larger contextLength' : ''),
      );
    return tokens;
  }

  /** Computes a prompt and generates nothing. */
  async #compute(
    prompt: readonly number[],
    signal: AbortSignal | undefined,
    promptLogprobs: number | undefined,
    listener: object,
  ): Promise<void> {
    const { engine } = this.#parts;
    const limits = { vocabularySize: this.config.vocabularySize, maxLogprobs };
    const parameters = resolveSamplingParameters({ temperature: 0, seed: 0, promptLogprobs }, {}, limits);
    const request = { prompt, parameters, stopTokens: new Set<number>(), maxTokens: 0, priority: 0, choice: 0 };
    throwIfAborted(signal, 'The computation');
    let onAbort: () => void = () => {};
    const done = new Promise<void>((resolve, reject) => {
      const sequence: Sequence = engine.submit(request, {
        ...listener,
        onToken: () => true,
        onEnd: (reason) => (reason === 'abort' ? reject(this.#abortError(signal)) : resolve()),
        onError: reject,
      });
      onAbort = () => engine.abort(sequence);
    });
    signal?.addEventListener('abort', onAbort, { once: true });
    return done.finally(() => signal?.removeEventListener('abort', onAbort));
  }

  /** Why a computation ended early: its signal, or else the model went. */
  #abortError(signal: AbortSignal | undefined): Qwen2Error {
    if (!signal?.aborted) return disposedError();
    return new Qwen2Error('aborted', 'The computation was aborted by its AbortSignal', { cause: signal.reason });
  }

  #requireAlive(): void {
    if (this.#disposed !== undefined) throw disposedError();
  }
}

function memoryOf({ device, weights, engine }: ModelParts): ModelMemory {
  const { cacheBytes, cacheBlocks, limits, workspaceBytes } = engine.plan;
  return {
    weightBytes: weights.byteLength,
    cacheBytes,
    workspaceBytes,
    decodeWeightBytes: weights.plan.decodeBytesOn(device),
    cacheBytesPerToken: cacheBytes / (cacheBlocks * blockSize),
    cacheTokens: cacheBlocks * blockSize,
    maxSequences: limits.sequences,
  };
}

function checkedOptions<Options extends ComputeOptions>(options: Options): Options {
  if (typeof options !== 'object' || options === null)
    throw new Qwen2Error('invalid_argument', `The options must be an object; got ${String(options)}`);
  if (options.signal !== undefined && !(options.signal instanceof AbortSignal))
    throw new Qwen2Error('invalid_argument', `signal must be an AbortSignal; got ${String(options.signal)}`);
  return options;
}

function disposedError(): Qwen2Error {
  return new Qwen2Error('disposed', 'The model was disposed; load it again');
}

function allocateLogits(tokens: number, vocabulary: number): Float32Array {
  try {
    return new Float32Array(tokens * vocabulary);
  } catch (cause) {
    throw new Qwen2Error(
      'out_of_memory',
      `The logits of ${tokens} tokens × ${vocabulary} words take ${tokens * vocabulary * 4} bytes, more than one array ` +
        'can hold; ask for fewer tokens at a time, or for promptLogprobs',
      { cause },
    );
  }
}
