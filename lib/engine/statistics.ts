import { EventEmitter } from 'node:events';
import type { FinishReason, Sequence } from './sequence.js';

/** How often values fell into which range. */
export interface HistogramSnapshot {
  count: number;
  sum: number;
  /** Values up to `upTo` and above the bucket before, in the order of bounds; only buckets that have any. */
  buckets: { upTo: number; count: number }[];
  p50: number;
  p99: number;
}

/** What an engine does, and has done since it was made. Times in seconds. */
export interface EngineStats {
  /** Sequences that have a place in the cache, and those that wait for one. */
  running: number;
  waiting: number;
  /** Sequences that gave up their place for others, to be computed anew. */
  preemptions: number;
  /** The part of the KV cache that sequences hold, from 0 to 1. */
  cacheInUse: number;
  /** The part of all prompts' tokens that was found in the cache, from 0 to 1. */
  prefixHitRate: number;
  steps: number;
  promptTokens: number;
  completionTokens: number;
  /** Chosen tokens a second, over the last ten seconds. */
  tokensPerSecond: number;
  /** From a sequence's submission to its first token. */
  timeToFirstToken: HistogramSnapshot;
  /** Between two tokens of a sequence. */
  interTokenLatency: HistogramSnapshot;
}

/** A step that was computed. */
export interface StepEvent {
  sequences: number;
  /** Of prompts, and one of each generating sequence. */
  tokens: number;
  seconds: number;
}

/** A sequence that has ended. */
export interface EndEvent {
  finishReason: FinishReason | 'error';
  promptTokens: number;
  completionTokens: number;
  /** From submission on; undefined if there was no token. */
  timeToFirstToken: number | undefined;
  seconds: number;
}

export interface EngineEvents {
  step: [StepEvent];
  end: [EndEvent];
}

/** Counts what an engine does, and tells who listens. */
export class Statistics {
  readonly events = new EventEmitter<EngineEvents>();
  readonly #times = new WeakMap<Sequence, { submitted: number; first?: number; last: number }>();
  readonly #timeToFirstToken = new Histogram();
  readonly #interTokenLatency = new Histogram();
  readonly #rate = new RecentRate();
  #steps = 0;
  #promptTokens = 0;
  #completionTokens = 0;

  submitted(sequence: Sequence): void {
    const now = seconds();
    this.#times.set(sequence, { submitted: now, last: now });
  }

  step(event: StepEvent): void {
    this.#steps++;
    outOfBand(() => this.events.emit('step', event));
  }

  token(sequence: Sequence): void {
    const times = this.#times.get(sequence)!;
    const now = seconds();
    if (times.first === undefined) this.#timeToFirstToken.add(now - times.submitted);
    else this.#interTokenLatency.add(now - times.last);
    times.first ??= now;
    times.last = now;
    this.#completionTokens++;
    this.#rate.add(now);
  }

  ended(sequence: Sequence, finishReason: FinishReason | 'error'): void {
    const { submitted, first } = this.#times.get(sequence)!;
    this.#promptTokens += sequence.promptLength;
    const event: EndEvent = {
      finishReason,
      promptTokens: sequence.promptLength,
      completionTokens: sequence.outputLength,
      timeToFirstToken: first === undefined ? undefined : first - submitted,
      seconds: seconds() - submitted,
    };
    outOfBand(() => this.events.emit('end', event));
  }

  snapshot() {
    return {
      steps: this.#steps,
      promptTokens: this.#promptTokens,
      completionTokens: this.#completionTokens,
      tokensPerSecond: this.#rate.perSecond(seconds()),
      timeToFirstToken: this.#timeToFirstToken.snapshot(),
      interTokenLatency: this.#interTokenLatency.snapshot(),
    };
  }
}

/** Calls a listener whose errors are nobody's here: they become the process's uncaught exceptions, and the engine goes on. */
export function outOfBand(tell: () => void): void {
  try {
    tell();
  } catch (error) {
    queueMicrotask(() => {
      throw error;
    });
  }
}

function seconds(): number {
  return performance.now() / 1000;
}

/** Counts in buckets that grow by a quarter of an octave, from 0.1 ms on: quantiles are right to 19%. */
export class Histogram {
  static readonly #least = 1e-4;
  static readonly #perOctave = 4;
  readonly #counts: number[] = [];
  #count = 0;
  #sum = 0;

  add(value: number): void {
    const octaves = Math.log2(Math.max(value, Histogram.#least) / Histogram.#least);
    const bucket = Math.ceil(octaves * Histogram.#perOctave);
    while (this.#counts.length <= bucket) this.#counts.push(0);
    this.#counts[bucket]!++;
    this.#count++;
    this.#sum += value;
  }

  snapshot(): HistogramSnapshot {
    const upTo = (bucket: number) => Histogram.#least * 2 ** (bucket / Histogram.#perOctave);
    const quantile = (q: number) => {
      let before = 0;
      const bucket = this.#counts.findIndex((count) => {
        before += count;
        return before >= q * this.#count;
      });
      return this.#count === 0 ? 0 : upTo(bucket);
    };
    const buckets = this.#counts.flatMap((count, bucket) => (count > 0 ? [{ upTo: upTo(bucket), count }] : []));
    return { count: this.#count, sum: this.#sum, buckets, p50: quantile(0.5), p99: quantile(0.99) };
  }
}

/** Events a second over the last ten seconds, counted by the second. */
class RecentRate {
  static readonly #seconds = 10;
  readonly #counts = new Array<number>(RecentRate.#seconds).fill(0);
  #started: number | undefined;
  #second = 0;

  add(now: number): void {
    this.#started ??= now;
    this.#advance(now);
    this.#counts[this.#second % RecentRate.#seconds]!++;
  }

  perSecond(now: number): number {
    if (this.#started === undefined) return 0;
    this.#advance(now);
    const total = this.#counts.reduce((sum, count) => sum + count, 0);
    const partial = now - Math.floor(now);
    return total / Math.max(Math.min(now - this.#started, RecentRate.#seconds - 1 + partial), 0.001);
  }

  #advance(now: number): void {
    const second = Math.floor(now);
    for (let passed = Math.max(this.#second + 1, second - RecentRate.#seconds + 1); passed <= second; passed++)
      this.#counts[passed % RecentRate.#seconds] = 0;
    this.#second = second;
  }
}
