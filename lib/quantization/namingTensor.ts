import type { TensorEntry } from '../checkpoint/safetensors.js';
import { Qwen2Error } from '../native/errors.js';
import type { Stream } from '../native/stream.js';

/**
 * Work of the stream on a tensor, which awaits its results: what is wrong with the data gets the tensor's name, and the
 * stream is free of the error.
 *
 * @throws invalid_checkpoint instead of invalid_argument
 */
export async function namingTensor<T>(entry: TensorEntry, stream: Stream, body: () => Promise<T>): Promise<T> {
  try {
    return await body();
  } catch (cause) {
    await stream.synchronized().catch(() => {});
    if (!(cause instanceof Qwen2Error) || cause.code !== 'invalid_argument') throw cause;
    const message = `${entry.path}, tensor ${entry.name} can't be rounded: ${cause.message}`;
    throw new Qwen2Error('invalid_checkpoint', message, { cause });
  }
}
