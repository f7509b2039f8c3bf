import type { EventEmitter } from 'node:events';
import { setImmediate } from 'node:timers/promises';
import { KeySmoothing } from '../model/keySmoothing.js';
import { blockSize, KvCache } from '../model/kvCache.js';
import { type Precision, Qwen2 } from '../model/qwen2.js';
import { StepInputs } from '../model/step.js';
import type { Weights } from '../model/weights.js';
import { Workspace } from '../model/workspace.js';
import type { Device } from '../native/device.js';
import { Qwen2Error } from '../native/errors.js';
import type { Stream } from '../native/stream.js';
import type { DType } from '../native/tensor.js';
import { Sampler } from '../sampler/sampler.js';
import { BlockAllocator } from './blockAllocator.js';
import type { EnginePlan } from './memory.js';
import { Runner, type StepOutcome } from './runner.js';
import { Scheduler, type StepEntry } from './scheduler.js';
import { type FinishReason, Sequence, type SequenceListener, type SequenceRequest } from './sequence.js';
import { type EngineEvents, type EngineStats, outOfBand, Statistics } from './statistics.js';

/** A step that was enqueued, and what it will find out. */
interface PendingStep {
  entries: readonly StepEntry[];
  started: number;
  outcomes: Promise<StepOutcome[]>;
  /** Whether a step before it failed: it built on what was not computed. */
  isVoid: boolean;
}

/** How long steps may follow one another, if each is through before the thread asks, until timers and sockets have a turn. */
const turnMilliseconds = 2;

interface EngineParts {
  device: Device;
  stream: Stream;
  weights: Weights;
  /** How the decoder computes. */
  precision: Precision;
  plan: EnginePlan;
  /** dtype of activations. */
  activation: DType;
  /** Replay captured steps; default true. */
  capture?: boolean | undefined;
  /** Steps that are enqueued while one is computed; default: the device's. */
  stepsAhead?: number | undefined;
}

/** Runs many sequences together, step by step, as long as there are any. Knows token ids only. */
export class Engine {
  readonly plan: EnginePlan;
  readonly #stream: Stream;
  readonly #scheduler: Scheduler;
  readonly #allocator: BlockAllocator;
  readonly #statistics = new Statistics();
  readonly #stepsAhead: number;
  readonly #runner: Runner;
  readonly #memory: readonly { dispose(): Promise<void> }[];
  #loop: Promise<void> | undefined;
  #disposed: Promise<void> | undefined;

  /** @throws out_of_memory */
  static async create(parts: EngineParts): Promise<Engine> {
    const { device, stream, weights, plan, activation } = parts;
    const { config } = weights.plan;
    const { cacheDtype, cacheBlocks } = plan;
    // Floats of 8 bits are as exact for large keys as for small ones.
    const smoothing = cacheDtype === 'int8' ? await KeySmoothing.of(weights, device, stream) : undefined;
    const cache = await KvCache.allocate(device, config, cacheDtype, cacheBlocks, smoothing);
    let workspace: Workspace | undefined;
    try {
      workspace = await Workspace.allocate(device, weights.plan, plan.limits, activation);
      return new Engine(parts, cache, workspace);
    } catch (error) {
      await Promise.all([cache.dispose(), workspace?.dispose()]);
      throw error;
    }
  }

  private constructor(
    { device, stream, weights, precision, plan, capture = true, stepsAhead = device.stepsAhead }: EngineParts,
    cache: KvCache,
    workspace: Workspace,
  ) {
    this.plan = plan;
    this.#stream = stream;
    const { limits, cacheBlocks } = plan;
    const inputs = new StepInputs(device, limits);
    const model = new Qwen2(weights, precision, cache, workspace, device, stream);
    const sampler = new Sampler(device, stream, model.config.vocabularySize, limits.sequences);
    this.#runner = new Runner(device, stream, model, inputs, sampler, {
      sequences: limits.sequences,
      logitRows: limits.logitRows,
      capture,
    });
    this.#allocator = new BlockAllocator(cacheBlocks, blockSize);
    this.#scheduler = new Scheduler(limits, this.#allocator, (sequence) => this.#runner.forget(sequence));
    this.#stepsAhead = stepsAhead;
    this.#memory = [this.#runner, sampler, model, inputs, workspace, cache];
  }

  /**
   * Starts a sequence. Its listener hears of it as steps finish.
   *
   * @throws disposed; invalid_argument or context_overflow for what could never be computed and would wait for ever
   */
  submit(request: SequenceRequest, listener: SequenceListener): Sequence {
    if (this.#disposed) throw new Qwen2Error('disposed', 'The model was disposed');
    this.#requireRoom(request);
    const sequence = new Sequence(request, listener);
    this.#scheduler.add(sequence);
    this.#statistics.submitted(sequence);
    // From the next microtask on, so that what is submitted together is computed together.
    this.#loop ??= Promise.resolve().then(() => this.#run());
    return sequence;
  }

  /** 'step' and 'end', as they happen. */
  get events(): EventEmitter<EngineEvents> {
    return this.#statistics.events;
  }

  stats(): EngineStats {
    const { running, waiting, preemptions, prefixes } = this.#scheduler;
    return {
      running,
      waiting,
      preemptions,
      cacheInUse: 1 - this.#allocator.freeBlocks / this.plan.cacheBlocks,
      prefixHitRate: prefixes.tokens === 0 ? 0 : prefixes.found / prefixes.tokens,
      ...this.#statistics.snapshot(),
    };
  }

  /** Ends a sequence with reason 'abort'; nothing happens if it has ended. */
  abort(sequence: Sequence): void {
    this.#end(sequence, 'abort');
  }

  /** Ends what still runs with reason 'abort', waits for the step in progress, and returns the engine's memory. */
  dispose(): Promise<void> {
    this.#disposed ??= this.#shutDown();
    return this.#disposed;
  }

  async #shutDown(): Promise<void> {
    for (const sequence of this.#scheduler.all()) this.#end(sequence, 'abort');
    await this.#loop;
    await this.#stream.synchronized();
    for (const part of this.#memory) await part.dispose();
  }

  #requireRoom({ prompt, maxTokens }: SequenceRequest): void {
    const { contextLength } = this.plan;
    if (prompt.length === 0)
      throw new Qwen2Error('invalid_argument', 'The prompt has no tokens; it needs one at least');
    if (prompt.length + maxTokens > contextLength)
      throw new Qwen2Error(
        'context_overflow',
        `The prompt has ${prompt.length} tokens and the answer up to ${maxTokens}; together they exceed the context of ${contextLength}`,
      );
  }

  async #run(): Promise<void> {
    const underWay: PendingStep[] = [];
    let turned = performance.now();
    for (;;) {
      const entries = this.#scheduler.next();
      if (entries.length > 0) underWay.push(this.#enqueue(entries));
      else if (underWay.length === 0) break;
      if (entries.length === 0 || underWay.length > this.#stepsAhead) await this.#finish(underWay.shift()!, underWay);
      if (performance.now() - turned < turnMilliseconds) continue;
      await setImmediate();
      turned = performance.now();
    }
    this.#loop = undefined;
  }

  #enqueue(entries: readonly StepEntry[]): PendingStep {
    const started = performance.now();
    const outcomes = this.#runner.run(entries);
    // It may fail while an earlier one is waited for.
    outcomes.catch(() => {});
    return { entries, started, outcomes, isVoid: false };
  }

  /** Waits for a step, and tells its sequences what it found out. If it fails, so do they. */
  async #finish({ entries, started, outcomes, isVoid }: PendingStep, behind: readonly PendingStep[]): Promise<void> {
    const [step] = await Promise.allSettled([outcomes]);
    if (isVoid) return;
    if (step.status === 'rejected') {
      for (const { sequence } of entries) this.#fail(sequence, step.reason);
      this.#takeBack(behind);
      return;
    }
    for (const entry of entries) this.#scheduler.confirm(entry);
    this.#statistics.step({
      sequences: entries.length,
      tokens: entries.reduce((sum, { count }) => sum + count, 0),
      seconds: (performance.now() - started) / 1000,
    });
    for (const outcome of step.value) {
      if (outcome.prompt.length > 0) await this.#tellPrompt(outcome);
      this.#settle(outcome);
    }
  }

  /** Steps behind one that failed may fail for its sake, or build on each other: what goes on of them is computed anew. */
  #takeBack(steps: readonly PendingStep[]): void {
    for (const step of steps) {
      if (!step.isVoid) for (const entry of step.entries) this.#scheduler.takeBack(entry);
      step.isVoid = true;
    }
  }

  /** Part by part, because who copies logits of so many tokens at once holds up the thread. */
  async #tellPrompt({ sequence, prompt }: StepOutcome): Promise<void> {
    for (const part of prompt) {
      if (sequence.ended) return;
      try {
        sequence.hear(part);
      } catch (error) {
        this.#fail(sequence, error);
      }
      if (part.logits !== undefined) await setImmediate();
    }
  }

  /** A listener that throws fails its own sequence, and no other. */
  #settle({ sequence, end, token, logprobs }: StepOutcome): void {
    if (sequence.ended) return;
    try {
      if (token !== undefined) {
        this.#statistics.token(sequence);
        const reason = sequence.accept(token, logprobs);
        if (reason !== undefined) this.#end(sequence, reason);
      } else if (sequence.request.maxTokens === 0 && end === sequence.promptLength) this.#end(sequence, 'length');
    } catch (error) {
      this.#fail(sequence, error);
    }
  }

  #end(sequence: Sequence, reason: FinishReason): void {
    // Its listener may have aborted it just now.
    if (sequence.ended) return;
    this.#forget(sequence);
    this.#statistics.ended(sequence, reason);
    outOfBand(() => sequence.listener.onEnd(reason));
  }

  #fail(sequence: Sequence, error: unknown): void {
    if (sequence.ended) return;
    this.#forget(sequence);
    this.#statistics.ended(sequence, 'error');
    outOfBand(() => sequence.listener.onError(error));
  }

  #forget(sequence: Sequence): void {
    this.#scheduler.remove(sequence);
    this.#runner.forget(sequence);
  }
}
