import type { Device } from '../native/device.js';
import { throwIfAborted } from '../native/errors.js';
import type { Storage } from '../native/storage.js';
import type { Stream } from '../native/stream.js';
import { type DType, dtypeBytes, Tensor } from '../native/tensor.js';
import { partBytes, type SourcePart, stagingBytes, TensorReader } from './tensorReader.js';

export interface LoadProgress {
  /** Bytes of the checkpoint's tensors that are on the device, of so many. */
  loadedBytes: number;
  totalBytes: number;
}

/** Some parts of files, and what becomes of them on the device. Small enough for a staging buffer. */
export interface LoadTask {
  parts: SourcePart[];
  /** Bytes that `place` takes for itself in the buffer. */
  scratchBytes?: number;
  /** Enqueues what turns the parts, as tensors of the files' dtypes, into parts of the model. */
  place(parts: Tensor[], scratch: Scratch): void;
}

interface LoaderOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** Staging buffers: enough that the disk and the packing are both always busy. Fewer where a matrix is one part. */
const stagingBuffers = 4;
const fewestBuffers = 2;
/** Tensors in a buffer begin at multiples of so many bytes, as kernels like it. */
const alignment = 256;

/** Hands out a buffer, tensor by tensor. */
export class Scratch {
  readonly #buffer: Storage;
  #used = 0;

  constructor(buffer: Storage) {
    this.#buffer = buffer;
  }

  take(dtype: DType, shape: readonly number[]): Tensor {
    const tensor = new Tensor(this.#buffer, dtype, shape, { byteOffset: this.#used });
    this.#used += Scratch.bytes(dtype, shape);
    return tensor;
  }

  /** What a tensor takes of a buffer. */
  static bytes(dtype: DType, shape: readonly number[]): number {
    const bytes = shape.reduce((product, n) => product * n, dtypeBytes[dtype]);
    return alignment * Math.ceil(bytes / alignment);
  }
}

/**
 * Streams tensors from files to a device: parts are read into staging buffers on threads, in parallel with the packing of
 * the parts before them. Host memory beyond the model: the staging buffers, 64 MiB and what quantizing takes, or a few
 * matrices where they are read whole.
 */
export class WeightLoader {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #signal: AbortSignal | undefined;
  readonly #onProgress: ((progress: LoadProgress) => void) | undefined;

  constructor(device: Device, stream: Stream, { signal, onProgress }: LoaderOptions = {}) {
    this.#device = device;
    this.#stream = stream;
    this.#signal = signal;
    this.#onProgress = onProgress;
  }

  /** @throws aborted, io_error naming the file */
  async load(tasks: readonly LoadTask[]): Promise<void> {
    const largest = Math.max(...tasks.map(bufferBytes));
    const totalBytes = tasks.reduce((sum, task) => sum + sourceBytes(task), 0);
    let loadedBytes = 0;
    const reader = new TensorReader(this.#stream);
    const staging: Storage[] = [];
    let next = 0;
    const work = async (buffer: Storage) => {
      for (let task = tasks[next++]; task !== undefined; task = tasks[next++]) {
        throwIfAborted(this.#signal, 'Loading');
        await this.#run(task, reader, buffer);
        loadedBytes += sourceBytes(task);
        this.#onProgress?.({ loadedBytes, totalBytes });
      }
    };
    const buffers = largest > 2 * stagingBytes ? fewestBuffers : stagingBuffers;
    try {
      while (staging.length < buffers) staging.push(this.#device.allocate(largest));
      await settleAll(staging.map(work), () => {
        next = tasks.length;
      });
    } finally {
      await reader.close();
      await Promise.all(staging.map((buffer) => buffer.dispose()));
      await this.#device.trimStaging();
    }
  }

  async #run({ parts, place }: LoadTask, reader: TensorReader, buffer: Storage): Promise<void> {
    const scratch = new Scratch(buffer);
    const tensors = parts.map((part) => scratch.take(part.entry.dtype as DType, shapeOf(part)));
    await Promise.all(parts.map((part, i) => reader.read(part, tensors[i]!)));
    place(tensors, scratch);
    await this.#stream.synchronized();
  }
}

function shapeOf({ entry, rows }: SourcePart): number[] {
  return [rows, ...entry.shape.slice(1)];
}

function sourceBytes({ parts }: LoadTask): number {
  return parts.reduce((sum, part) => sum + partBytes(part), 0);
}

function bufferBytes({ parts, scratchBytes = 0 }: LoadTask): number {
  return parts.reduce((sum, part) => sum + Scratch.bytes(part.entry.dtype as DType, shapeOf(part)), scratchBytes);
}

/** Waits for all, even when one fails, so that nothing still runs when the first error is thrown. */
async function settleAll(work: Promise<void>[], onFirstError: () => void): Promise<void> {
  const results = await Promise.allSettled(
    work.map((promise) =>
      promise.catch((error: unknown) => {
        onFirstError();
        throw error;
      }),
    ),
  );
  for (const result of results) if (result.status === 'rejected') throw result.reason;
}
