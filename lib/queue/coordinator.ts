import { randomUUID } from 'node:crypto';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { type BatchFileProgress, noProgress } from '../batch/batchFile.js';
import { type BatchFiles, RequestFile } from '../batch/requestFile.js';
import { parseRequestLine } from '../batch/requestLine.js';
import { openResults, type ResultFile } from '../batch/resultFile.js';
import { ResultLines } from '../batch/resultLine.js';
import { Qwen2Error, throwIfAborted } from '../native/errors.js';
import {
  connect,
  connectionOf,
  disconnect,
  keptSeconds,
  prefix,
  queueName,
  queuePackages,
  type Redis,
  resultsKey,
  type ShardQueue,
} from './redis.js';
import { Ledger, type ShardLine, type ShardResult } from './shard.js';

export interface QueuedBatchOptions extends BatchFiles {
  /** redis://host:port/database, where workers take their shards. */
  queue: string;
  /** Requests that a worker takes at a time. Default 64. */
  shardSize?: number | undefined;
  /** Shards that are out at the same time, which is what Redis holds of a batch. Default 128. */
  maxShards?: number | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: BatchFileProgress) => void) | undefined;
  /** Told in a sentence what needs attention: Redis that is gone, shards that are given up. */
  onNote?: ((text: string) => void) | undefined;
}

export const defaultShardSize = 64;
const defaultMaxShards = 128;
/** How often Redis is asked for results, where there were none, and how often for shards that make none. */
const pollMilliseconds = 100;
const superviseMilliseconds = 2000;
/** How long the end waits for what is under way. */
const endMilliseconds = 1000;
/** Results that are taken at once. */
const takenAtOnce = 500;
/** A shard is tried so often by workers that stop with an error; how often by ones that die, says the worker. */
const attempts = 4;

/**
 * Has the requests of a file done by workers (`runQueueWorker`), wherever they run, and merges their results into the output:
 * each once, durably. Interrupted by whatever, the same call goes on; what workers made meanwhile waits in Redis.
 *
 * @returns the last progress
 * @throws as runBatchFile; io_error if there is no Redis; unsupported without the packages bullmq and ioredis
 */
export async function runQueuedBatch(options: QueuedBatchOptions): Promise<BatchFileProgress> {
  const { queue: url, output, onNote = () => {} } = options;
  const redis = await connect(url, onNote);
  try {
    const { Queue } = await queuePackages();
    const { results, done } = await openResults(output);
    try {
      const batch = await identityOf(output);
      const queue: ShardQueue = new Queue(queueName, { connection: connectionOf(redis), prefix });
      queue.on('error', () => {}); // the connection's, which says so itself
      try {
        const progress = await new Coordinator(options, redis, queue, batch, results, new Ledger(done)).run();
        await rm(identityPath(output), { force: true });
        return progress;
      } finally {
        await atMost(endMilliseconds, queue.close());
      }
    } finally {
      await results.close();
    }
  } finally {
    disconnect(redis);
  }
}

/** A batch is known in Redis by what stands beside its output, until it is complete. */
const identityPath = (output: string) => `${output}.queue`;

async function identityOf(output: string): Promise<string> {
  const path = identityPath(output);
  const found = await readFile(path, 'utf8').catch(() => '');
  if (found.trim() !== '') return found.trim();
  const batch = randomUUID();
  try {
    await writeFile(path, `${batch}\n`, { flush: true });
  } catch (cause) {
    throw new Qwen2Error('io_error', `${path} can't be written: ${(cause as Error).message}`, { cause });
  }
  return batch;
}

class Coordinator {
  readonly #options: QueuedBatchOptions;
  readonly #redis: Redis;
  readonly #queue: ShardQueue;
  readonly #batch: string;
  readonly #results: ResultFile;
  readonly #ledger: Ledger;
  readonly #requests: RequestFile;
  readonly #lines = new ResultLines(undefined);
  readonly #started = performance.now();
  readonly #shardSize: number;
  readonly #maxShards: number;
  /** Of this run, in the shards' names. */
  readonly #run = randomUUID().slice(0, 8);
  #shards = 0;
  /** Shards that were not in the queue when they were last looked for. */
  #suspects = new Set<string>();
  #supervised = 0;
  #fed: Promise<void> = Promise.resolve();
  #feeding: 'on' | 'done' | { cause: unknown } = 'on';
  #stopped = false;
  #progress = noProgress;

  constructor(
    options: QueuedBatchOptions,
    redis: Redis,
    queue: ShardQueue,
    batch: string,
    results: ResultFile,
    ledger: Ledger,
  ) {
    this.#options = options;
    this.#redis = redis;
    this.#queue = queue;
    this.#batch = batch;
    this.#results = results;
    this.#ledger = ledger;
    this.#requests = new RequestFile(options);
    this.#shardSize = countOf('shardSize', options.shardSize, defaultShardSize);
    this.#maxShards = countOf('maxShards', options.maxShards, defaultMaxShards);
  }

  async run(): Promise<BatchFileProgress> {
    throwIfAborted(this.#options.signal, 'The batch');
    const counting = this.#requests.count().then((total) => this.#report({ total }));
    try {
      await this.#orAborted(this.#work());
    } finally {
      await this.#requests.close();
      await counting;
    }
    return this.#progress;
  }

  async #work(): Promise<void> {
    // In this order: a shard that ends in between has left its results.
    await this.#adopt();
    while ((await this.#merge()) > 0);
    this.#fed = this.#feed().then(
      () => {
        this.#feeding = 'done';
      },
      (cause: unknown) => {
        this.#feeding = { cause };
      },
    );
    while (!this.#stopped && (this.#feeding !== 'done' || this.#ledger.requests > 0)) {
      if (typeof this.#feeding === 'object') throw this.#feeding.cause;
      if ((await this.#merge()) > 0) continue;
      if (performance.now() - this.#supervised >= superviseMilliseconds) await this.#supervise();
      await setTimeout(pollMilliseconds);
    }
    if (!this.#stopped) await this.#redis.del(resultsKey(this.#batch));
  }

  /** Redis that is gone holds everything up, but not the end. */
  async #orAborted(work: Promise<void>): Promise<void> {
    const { signal } = this.#options;
    let onAbort = () => {};
    const aborted = new Promise<void>((_, reject) => {
      onAbort = () => {
        this.#stopped = true;
        reject(new Qwen2Error('aborted', 'The batch was aborted by its AbortSignal', { cause: signal?.reason }));
      };
      signal?.addEventListener('abort', onAbort, { once: true });
    });
    work.catch(() => {});
    try {
      await Promise.race([work, aborted]);
    } finally {
      signal?.removeEventListener('abort', onAbort);
      this.#stopped = true;
      // What is under way ends by itself, if Redis is there.
      await atMost(endMilliseconds, Promise.allSettled([work, this.#fed]));
    }
  }

  /** Takes up the shards of an earlier run that are still out. */
  async #adopt(): Promise<void> {
    const jobs = await this.#queue.getJobs(['waiting', 'active', 'delayed', 'prioritized', 'failed']);
    for (const job of jobs)
      if (job?.id !== undefined && job.data.batch === this.#batch) this.#ledger.add(job.id, job.data.lines);
  }

  async #feed(): Promise<void> {
    const onOther = (what: 'skipped' | 'invalid') => this.#report({ [what]: this.#progress[what] + 1 });
    let lines: ShardLine[] = [];
    for await (const { request, text, number } of this.#requests.pending(this.#ledger.done, onOther)) {
      if (this.#stopped) return;
      if (this.#ledger.isOut(request.id)) continue;
      lines.push({ id: request.id, text, number });
      if (lines.length < this.#shardSize) continue;
      await this.#enqueueWithRoom(lines);
      lines = [];
    }
    if (lines.length > 0) await this.#enqueueWithRoom(lines);
  }

  async #enqueueWithRoom(lines: readonly ShardLine[]): Promise<void> {
    while (!this.#stopped && this.#ledger.shards >= this.#maxShards) await setTimeout(pollMilliseconds);
    if (!this.#stopped) await this.#enqueue(lines);
  }

  async #enqueue(lines: readonly ShardLine[]): Promise<void> {
    const shard = `${this.#batch}-${this.#run}-${this.#shards++}`;
    this.#ledger.add(shard, lines);
    await this.#queue.add('shard', { batch: this.#batch, lines }, { jobId: shard, attempts, removeOnComplete: true });
    this.#report({ running: this.#ledger.requests });
  }

  /** Takes results from Redis into the output: they are there first, and gone from Redis then. How many. */
  async #merge(): Promise<number> {
    const key = resultsKey(this.#batch);
    const read = await this.#redis.xread('COUNT', takenAtOnce, 'STREAMS', key, '0');
    const entries = read?.[0]?.[1] ?? [];
    if (entries.length === 0 || this.#stopped) return 0;
    const results = entries.map(([, fields]) => JSON.parse(fields![1]!) as ShardResult);
    await Promise.all(results.filter(({ id }) => this.#ledger.take(id)).map((result) => this.#append(result)));
    await this.#redis.xdel(key, ...entries.map(([id]) => id));
    await this.#redis.expire(key, keptSeconds);
    return entries.length;
  }

  async #append({ line, failed, promptTokens, completionTokens }: ShardResult): Promise<void> {
    await this.#results.append(line);
    const before = this.#progress;
    this.#report({
      finished: before.finished + 1,
      failed: before.failed + Number(failed),
      promptTokens: before.promptTokens + promptTokens,
      completionTokens: before.completionTokens + completionTokens,
      running: this.#ledger.requests,
    });
  }

  /** Looks after shards that make no results: given up by the queue, or lost with it. */
  async #supervise(): Promise<void> {
    this.#supervised = performance.now();
    const missing = new Set<string>();
    for (const shard of this.#ledger.names()) {
      const job = await this.#queue.getJob(shard);
      if (this.#stopped) return;
      if (job === undefined) missing.add(shard);
      else if (await job.isFailed()) {
        await this.#giveUp(shard, job.failedReason);
        await job.remove();
      }
    }
    // Twice, with all results taken in between: what ended just now has left them.
    for (const shard of missing) {
      if (!this.#suspects.has(shard)) continue;
      const lines = this.#ledger.remove(shard);
      if (lines.length === 0) continue;
      this.#options.onNote?.(`${lines.length} requests are not in Redis any more; they are put there again`);
      // Without waiting for room, which only merging makes, and that is for after this.
      await this.#enqueue(lines);
    }
    this.#suspects = missing;
  }

  async #giveUp(shard: string, reason: string | undefined): Promise<void> {
    const lines = this.#ledger.remove(shard);
    if (lines.length === 0) return;
    this.#options.onNote?.(`${lines.length} requests are given up: ${reason}`);
    const error = new Qwen2Error('internal', `Its shard was given up by the queue: ${reason}`);
    for (const { id, text, number } of lines) {
      if (!this.#ledger.take(id)) continue;
      const line = this.#lines.lineOf(parseRequestLine(text, number), { id, error });
      await this.#append({ id, line, failed: true, promptTokens: 0, completionTokens: 0 });
    }
  }

  #report(changes: Partial<BatchFileProgress>): void {
    this.#progress = { ...this.#progress, seconds: (performance.now() - this.#started) / 1000, ...changes };
    this.#options.onProgress?.(this.#progress);
  }
}

/** Waits for the end of something, but not for ever. */
async function atMost(milliseconds: number, something: Promise<unknown>): Promise<void> {
  await Promise.race([something.catch(() => {}), setTimeout(milliseconds, undefined, { ref: false })]);
}

function countOf(name: string, value: number | undefined, byDefault: number): number {
  const count = value ?? byDefault;
  if (Number.isInteger(count) && count >= 1) return count;
  throw new Qwen2Error('invalid_argument', `${name} must be a whole number from 1 on; got ${String(value)}`);
}
