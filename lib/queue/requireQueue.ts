import { connect, disconnect } from './redis.js';

/**
 * Whether there is a queue at the address: to be asked before a model is loaded for minutes.
 *
 * @param url redis://[user:password@]host[:port][/database], or rediss:// for TLS
 * @throws invalid_argument for another URL, io_error if nothing answers there, unsupported without bullmq and ioredis
 */
export async function requireQueue(url: string): Promise<void> {
  disconnect(await connect(url, () => {}));
}
