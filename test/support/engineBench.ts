import assert from 'node:assert/strict';
import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import { Engine } from '../../lib/engine/engine.js';
import { type EngineOptions, type EnginePlan, planMemory } from '../../lib/engine/memory.js';
import type { FinishReason, Logprobs, Sequence, SequenceListener } from '../../lib/engine/sequence.js';
import { Model } from '../../lib/generation/model.js';
import { planWeights, type WeightOptions } from '../../lib/model/plan.js';
import { loadWeights, type Weights } from '../../lib/model/weights.js';
import { Device } from '../../lib/native/device.js';
import type { OpName } from '../../lib/native/ops.js';
import type { Stream } from '../../lib/native/stream.js';
import { resolveSamplingParameters, type SamplingParameters } from '../../lib/sampler/parameters.js';
import { loadTokenizer } from '../../lib/tokenizer/tokenizer.js';
import { failure } from './streamWork.js';

export interface EngineBenchOptions extends EngineOptions, WeightOptions {
  device?: string;
  simd?: string;
  dtype?: 'bf16' | 'f32';
  capture?: boolean;
  stepsAhead?: number;
  batchInvariant?: boolean;
}

/** What came of a sequence. */
export interface Outcome {
  tokens: number[];
  logprobs: (Logprobs | undefined)[];
  /** Those of the prompt, by position, if `promptLogprobs` is set. */
  prompt: Logprobs[];
  /** The reason, or the error; how often each was told. */
  ends: (FinishReason | Error)[];
}

export interface Submission extends SamplingParameters {
  stopTokens?: number[];
  choice?: number;
  priority?: number;
  /** Called after each token. */
  onToken?: (tokens: number) => void;
  /** Called after each part of the prompt, if `promptLogprobs` is set. */
  onPrompt?: () => void;
}

/**
 * A checkpoint's parts, each within reach: the engine below the checks of `Model`, and a device that can be asked for its
 * memory when all else is gone. Free it with `dispose`.
 */
export class EngineBench {
  readonly device: Device;
  readonly stream: Stream;
  readonly weights: Weights;
  readonly plan: EnginePlan;
  readonly engine: Engine;
  readonly #vocabularySize: number;
  readonly #makeModel: () => Promise<Model>;

  static async load(folder: string, options: EngineBenchOptions = {}): Promise<EngineBench> {
    const { device: name = 'cpu', simd, dtype = 'bf16', capture = true, stepsAhead, batchInvariant = false } = options;
    const checkpoint = await openCheckpoint(folder);
    const { config, generationConfig } = checkpoint;
    const device = Device.open(name, { simd, threads: 2 });
    const stream = device.createStream();
    const { quantize, lmHead } = options;
    const weightPlan = await planWeights(checkpoint, { quantize, lmHead });
    const weights = await loadWeights(checkpoint, device, stream, { plan: weightPlan });
    const plan = planMemory(device, weights.plan, dtype, device.describe().freeBytes, {
      contextLength: 256,
      ...options,
    });
    const precision = { exact: false, batchInvariant };
    const engine = await Engine.create({
      device,
      stream,
      weights,
      precision,
      plan,
      activation: dtype,
      capture,
      stepsAhead,
    });
    const makeModel = async () => {
      const tokenizer = await loadTokenizer(folder);
      // The device outlives the model, to be asked what memory is left.
      const lent = Object.defineProperty(device, 'dispose', { value: () => {}, configurable: true });
      const parts = { config, generationConfig, device: lent, stream, weights, engine, tokenizer };
      return new Model({ ...parts, batchInvariant, loadSeconds: 0 });
    };
    return new EngineBench({ device, stream, weights, plan, engine }, config.vocabularySize, makeModel);
  }

  private constructor(
    parts: Pick<EngineBench, 'device' | 'stream' | 'weights' | 'plan' | 'engine'>,
    vocabularySize: number,
    makeModel: () => Promise<Model>,
  ) {
    this.device = parts.device;
    this.stream = parts.stream;
    this.weights = parts.weights;
    this.plan = parts.plan;
    this.engine = parts.engine;
    this.#vocabularySize = vocabularySize;
    this.#makeModel = makeModel;
  }

  /** A model of these parts, which `model.dispose()` returns, all but the device. */
  model(): Promise<Model> {
    return this.#makeModel();
  }

  /** Starts a sequence and collects what its listener hears; `done` resolves at the first end. */
  submit(prompt: readonly number[], submission: Submission = {}) {
    const { stopTokens = [], choice = 0, priority = 0, onToken, onPrompt, maxTokens = 8, ...given } = submission;
    const limits = { vocabularySize: this.#vocabularySize, maxLogprobs: 20 };
    const parameters = resolveSamplingParameters({ temperature: 0, seed: 1, logprobs: 20, ...given }, {}, limits);
    const outcome: Outcome = { tokens: [], logprobs: [], prompt: [], ends: [] };
    let finish: (outcome: Outcome) => void;
    const done = new Promise<Outcome>((resolve) => {
      finish = resolve;
    });
    const end = (how: FinishReason | Error) => {
      outcome.ends.push(how);
      finish(outcome);
    };
    const listener: SequenceListener = {
      onToken: (token, logprobs) => {
        outcome.tokens.push(token);
        outcome.logprobs.push(logprobs);
        onToken?.(outcome.tokens.length);
        return false;
      },
      onPromptLogprobs: (first, logprobs) => {
        assert.equal(first, Math.max(1, outcome.prompt.length), 'each token of a prompt is told of once, in order');
        for (const [i, entry] of logprobs.entries()) outcome.prompt[first + i] = entry;
        onPrompt?.();
      },
      onEnd: end,
      onError: (error) => end(error as Error),
    };
    const request = { prompt, parameters, stopTokens: new Set(stopTokens), maxTokens, priority, choice };
    const sequence: Sequence = this.engine.submit(request, listener);
    return { sequence, done, outcome };
  }

  /**
   * Puts work that fails on the device in front of the next operation of a name, once: `deviceError` tells of it. Not
   * while steps are captured, unless the operation is `sample`.
   */
  failBefore(name: OpName, onFailure: () => void = () => {}): void {
    const { device, stream } = this;
    const x = device.tensor('i32', [1, 1]);
    const rows = device.tensor('i32', [1]);
    const out = device.tensor('i32', [1, 1]);
    const run = stream.run;
    stream.run = (next, args) => {
      if (next === name) {
        stream.run = run;
        stream.upload(rows, Int32Array.of(missingRow));
        stream.run('gather_rows', { x, rows, out });
        for (const { storage } of [x, rows, out]) void storage.dispose();
        onFailure();
      }
      run.call(stream, next, args);
    };
  }

  async dispose(): Promise<void> {
    await this.engine.dispose();
    await this.weights.dispose();
    this.stream.dispose();
    Device.prototype.dispose.call(this.device);
  }
}

const missingRow = 99;

/** For `assert.throws`: what `failBefore` makes sequences end with. */
export const deviceError = failure(
  'invalid_argument',
  new RegExp(`rows\\[0\\] = ${missingRow} is outside the 1 rows of x; in gather_rows\\(`),
);

/** Loads a bench, and frees it after `body`. */
export async function withEngine<T>(
  folder: string,
  options: EngineBenchOptions,
  body: (bench: EngineBench) => Promise<T>,
): Promise<T> {
  const bench = await EngineBench.load(folder, options);
  try {
    return await body(bench);
  } finally {
    await bench.dispose();
  }
}
