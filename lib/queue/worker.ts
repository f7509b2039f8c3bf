import type { Job } from 'bullmq';
import { type BatchOutcome, type BatchRequest, generateBatch } from '../batch/generateBatch.js';
import { parseRequestLine, type RequestLine } from '../batch/requestLine.js';
import { ResultLines } from '../batch/resultLine.js';
import type { Model } from '../generation/model.js';
import { Qwen2Error, type Qwen2ErrorCode } from '../native/errors.js';
import { defaultShardSize } from './coordinator.js';
import {
  connect,
  connectionOf,
  disconnect,
  finishedKey,
  keptSeconds,
  prefix,
  queueName,
  queuePackages,
  type Redis,
  resultsKey,
  type ShardWorker,
} from './redis.js';
import type { Shard, ShardResult } from './shard.js';

export interface QueueWorkerOptions {
  /** redis://host:port/database */
  queue: string;
  /** A worker that says nothing for so long is taken for dead, and its shards go to others. Default 30. */
  heartbeatSeconds?: number | undefined;
  /** Ends the worker: shards that it has begun go back to the queue, without what is done of them. */
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: QueueWorkerProgress) => void) | undefined;
  /** Told in a sentence what needs attention: Redis that is gone, and that it is back. */
  onNote?: ((text: string) => void) | undefined;
}

export interface QueueWorkerProgress {
  /** Shards that are under way, and that were done. */
  running: number;
  shards: number;
  /** Requests that have ended, and how many of them with an error. */
  finished: number;
  failed: number;
  promptTokens: number;
  completionTokens: number;
  seconds: number;
}

/** A shard goes to another worker so often, after workers that died with it. */
const maxDeaths = 3;

/** Errors of the machine, not of a request: another worker may do better, and this one is to stop. */
const machineErrors: ReadonlySet<Qwen2ErrorCode> = new Set([
  'internal',
  'device_unavailable',
  'out_of_memory',
  'disposed',
]);

/**
 * Takes shards of batches (`runQueuedBatch`) from a queue and generates for them, until its signal ends it. Every result is in
 * Redis as soon as it is made. Several workers may serve several batches.
 *
 * @returns the last progress
 * @throws invalid_argument, io_error if there is no Redis, unsupported without the packages bullmq and ioredis; an error of
 *   the machine, which goes on in no request's place but ends the worker
 */
export async function runQueueWorker(model: Model, options: QueueWorkerOptions): Promise<QueueWorkerProgress> {
  const { queue: url, heartbeatSeconds = 30, onNote = () => {} } = options;
  if (!(heartbeatSeconds >= 1 && heartbeatSeconds <= 3600))
    throw new Qwen2Error('invalid_argument', `heartbeatSeconds is ${heartbeatSeconds}; it must be from 1 to 3600`);
  const redis = await connect(url, onNote);
  try {
    return await new QueueWorker(model, options, redis).run(heartbeatSeconds);
  } finally {
    disconnect(redis);
  }
}

class QueueWorker {
  readonly #model: Model;
  readonly #options: QueueWorkerOptions;
  readonly #redis: Redis;
  readonly #lines: ResultLines;
  readonly #stop = new AbortController();
  readonly #started = performance.now();
  #failure: { cause: unknown } | undefined;
  #progress = { running: 0, shards: 0, finished: 0, failed: 0, promptTokens: 0, completionTokens: 0, seconds: 0 };

  constructor(model: Model, options: QueueWorkerOptions, redis: Redis) {
    this.#model = model;
    this.#options = options;
    this.#redis = redis;
    this.#lines = new ResultLines(model.hasTokenizer ? model.tokenizer : undefined);
  }

  async run(heartbeatSeconds: number): Promise<QueueWorkerProgress> {
    const { Worker, WaitingError } = await queuePackages();
    const process = async (job: Job<Shard>, token: string | undefined) => {
      if (await this.#process(job)) return;
      await job.moveToWait(token);
      throw new WaitingError();
    };
    const worker: ShardWorker = new Worker(queueName, process, {
      connection: connectionOf(this.#redis),
      prefix,
      // Enough that the model has something to do while shards end and begin.
      concurrency: 1 + Math.ceil((2 * this.#model.memory.maxSequences) / defaultShardSize),
      lockDuration: 1000 * heartbeatSeconds,
      stalledInterval: 500 * heartbeatSeconds,
      maxStalledCount: maxDeaths,
    });
    worker.on('error', () => {}); // the connection's, which says so itself
    const { signal } = this.#options;
    const onAbort = () => this.#stop.abort();
    signal?.addEventListener('abort', onAbort, { once: true });
    if (signal?.aborted) onAbort();
    await aborted(this.#stop.signal);
    signal?.removeEventListener('abort', onAbort);
    await worker.close();
    if (this.#failure !== undefined) throw this.#failure.cause;
    return this.#progress;
  }

  /** Whether the shard is done; if not, it is another worker's. */
  async #process(job: Job<Shard>): Promise<boolean> {
    if (this.#stop.signal.aborted) return false;
    this.#report({ running: this.#progress.running + 1 });
    try {
      await this.#generate(job);
      this.#report({ shards: this.#progress.shards + 1 });
      return true;
    } catch (cause) {
      if (this.#stop.signal.aborted) return false;
      this.#failure = { cause };
      this.#stop.abort();
      throw cause;
    } finally {
      this.#report({ running: this.#progress.running - 1 });
    }
  }

  async #generate({ id: shard, data: { batch, lines } }: Job<Shard>): Promise<void> {
    const key = finishedKey(batch, shard!);
    const finished = new Set(await this.#redis.smembers(key));
    const forms = new Map<string, RequestLine>();
    const requests: BatchRequest[] = [];
    for (const { id, text, number } of lines) {
      if (finished.has(id)) continue;
      const line = parseRequestLine(text, number);
      forms.set(id, line);
      requests.push(line.request);
    }
    for await (const outcome of generateBatch(this.#model, requests, { signal: this.#stop.signal })) {
      if (outcome.error && machineErrors.has(outcome.error.code)) throw outcome.error;
      await this.#push(batch, key, resultOf(this.#lines.lineOf(forms.get(outcome.id)!, outcome), outcome));
    }
    await this.#redis.del(key);
  }

  /** The result, and that it is there, at once. */
  async #push(batch: string, finished: string, result: ShardResult): Promise<void> {
    const results = resultsKey(batch);
    const replies = await this.#redis
      .multi()
      .xadd(results, '*', 'result', JSON.stringify(result))
      .expire(results, keptSeconds)
      .sadd(finished, result.id)
      .expire(finished, keptSeconds)
      .exec();
    for (const [error] of replies ?? [])
      if (error) throw new Qwen2Error('io_error', `Redis does not take results: ${error.message}`, { cause: error });
    this.#report({
      finished: this.#progress.finished + 1,
      failed: this.#progress.failed + Number(result.failed),
      promptTokens: this.#progress.promptTokens + result.promptTokens,
      completionTokens: this.#progress.completionTokens + result.completionTokens,
    });
  }

  #report(changes: Partial<QueueWorkerProgress>): void {
    this.#progress = { ...this.#progress, seconds: (performance.now() - this.#started) / 1000, ...changes };
    this.#options.onProgress?.(this.#progress);
  }
}

function resultOf(line: string, { id, result, error }: BatchOutcome): ShardResult {
  const { promptTokens = 0, completionTokens = 0 } = result?.usage ?? {};
  return { id, line, failed: error !== undefined, promptTokens, completionTokens };
}

async function aborted(signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
}
