import type { ConnectionOptions, Queue, Worker } from 'bullmq';
import type { Redis } from 'ioredis';
import { Qwen2Error } from '../native/errors.js';
import type { Shard } from './shard.js';

export type { Redis } from 'ioredis';
export type ShardQueue = Queue<Shard>;
export type ShardWorker = Worker<Shard>;

/** Names that all keys begin with, and of the one queue that all batches share. */
export const prefix = 'qwen2';
export const queueName = 'shards';

/** What a batch leaves in Redis is gone so long after it was last touched, if nobody comes back to it. */
export const keptSeconds = 7 * 24 * 3600;

/** A stream of results of a batch. */
export const resultsKey = (batch: string) => `${prefix}:results:${batch}`;
/** A set of the ids of a shard that have a result. */
export const finishedKey = (batch: string, shard: string) => `${prefix}:finished:${batch}:${shard}`;

type QueuePackages = Pick<typeof import('bullmq'), 'Queue' | 'Worker' | 'WaitingError'> &
  Pick<typeof import('ioredis'), 'Redis'>;

const connectMilliseconds = 5000;

/** The packages that only a queue needs. @throws unsupported if they are not installed */
export async function queuePackages(): Promise<QueuePackages> {
  try {
    const [{ Queue, Worker, WaitingError }, { Redis }] = await Promise.all([import('bullmq'), import('ioredis')]);
    return { Queue, Worker, WaitingError, Redis };
  } catch (cause) {
    throw new Qwen2Error('unsupported', 'A queue needs two packages more; npm install bullmq ioredis', { cause });
  }
}

/**
 * Connects to Redis. A connection that is lost later is made again, for as long as it takes, and what is under way waits.
 *
 * @param url redis://[user:password@]host[:port][/database], or rediss:// for TLS
 * @param onNote told of a connection that is lost, and of one that is there again
 * @throws invalid_argument for another URL, io_error if nothing answers there
 */
export async function connect(url: string, onNote: (text: string) => void): Promise<Redis> {
  const place = placeOf(url);
  const { Redis } = await queuePackages();
  let connected = false;
  let lost = false;
  const redis = new Redis(url, {
    lazyConnect: true,
    connectTimeout: connectMilliseconds,
    maxRetriesPerRequest: null,
    retryStrategy: (times) => (connected ? Math.min(100 * times, 3000) : null),
  });
  let reason = 'it does not answer';
  redis.on('error', (error: Error) => {
    reason = error.message;
  });
  try {
    await redis.connect();
    await redis.ping();
  } catch (cause) {
    redis.disconnect();
    throw new Qwen2Error('io_error', `There is no Redis at ${place}: ${reason || (cause as Error).message}`, { cause });
  }
  connected = true;
  redis.on('close', () => {
    if (!lost && connected) onNote(`Redis at ${place} is gone; waiting for it`);
    lost = true;
  });
  redis.on('ready', () => {
    if (lost) onNote(`Redis at ${place} is back`);
    lost = false;
  });
  redis.once('end', () => {
    connected = false;
  });
  return redis;
}

/** Ends a connection without a note. */
export function disconnect(redis: Redis): void {
  redis.removeAllListeners('close');
  redis.disconnect();
}

/** ioredis's own types and those that bullmq was built with are two. */
export const connectionOf = (redis: Redis) => redis as unknown as ConnectionOptions;

/** Host and port, without a password. */
function placeOf(url: string): string {
  const parsed = URL.canParse(url) ? new URL(url) : undefined;
  if (parsed === undefined || !['redis:', 'rediss:'].includes(parsed.protocol) || parsed.hostname === '')
    throw new Qwen2Error(
      'invalid_argument',
      `The queue is ${JSON.stringify(url)}; it must be redis://host:port/database`,
    );
  return `${parsed.hostname}:${parsed.port || 6379}`;
}
