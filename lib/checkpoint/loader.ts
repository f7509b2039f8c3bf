import { type FileHandle, open } from 'node:fs/promises';
import { nativeAddon } from '../native/addon.js';
import type { Device } from '../native/device.js';
import { Qwen2Error, throwIfAborted } from '../native/errors.js';
import type { Storage } from '../native/storage.js';
import type { Stream } from '../native/stream.js';
import { type DType, dtypeBytes, Tensor } from '../native/tensor.js';
import type { TensorEntry } from './safetensors.js';

export interface LoadProgress {
  /** Bytes of the checkpoint's tensors that are on the device, of so many. */
  loadedBytes: number;
  totalBytes: number;
}

/** Rows of a tensor of a file; of a vector, elements. */
export interface SourcePart {
  entry: TensorEntry;
  firstRow: number;
  rows: number;
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

/** Bytes of a part that tensors are cut into. */
export const stagingBytes = 16 << 20;
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
    const files = await openFiles(tasks);
    const staging: Storage[] = [];
    let next = 0;
    const work = async (buffer: Storage) => {
      for (let task = tasks[next++]; task !== undefined; task = tasks[next++]) {
        throwIfAborted(this.#signal, 'Loading');
        await this.#run(task, files, buffer);
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
      await Promise.all([...files.values()].map((file) => file.close()));
      await Promise.all(staging.map((buffer) => buffer.dispose()));
      await this.#device.trimStaging();
    }
  }

  async #run(task: LoadTask, files: ReadonlyMap<string, FileHandle>, buffer: Storage): Promise<void> {
    const scratch = new Scratch(buffer);
    const tensors = task.parts.map(({ entry, rows }) =>
      scratch.take(entry.dtype as DType, [rows, ...entry.shape.slice(1)]),
    );
    await Promise.all(
      task.parts.map((part, i) => this.#read(part, files.get(part.entry.path)!, buffer, tensors[i]!.byteOffset)),
    );
    task.place(tensors, scratch);
    await this.#stream.synchronized();
  }

  async #read(part: SourcePart, file: FileHandle, buffer: Storage, at: number): Promise<void> {
    const { entry, firstRow } = part;
    const rowBytes = entry.byteLength / (entry.shape[0] ?? 1);
    try {
      const offset = entry.offset + firstRow * rowBytes;
      await nativeAddon().readFile(this.#stream.id, file.fd, offset, partBytes(part), buffer.id, at);
    } catch (cause) {
      if (!(cause instanceof Qwen2Error)) throw cause;
      throw new Qwen2Error(cause.code, `${entry.path}, tensor ${entry.name}: ${cause.message}`, { cause });
    }
  }
}

/** A tensor cut into parts of rows that a staging buffer holds: of multiples of so many, but for the last. */
export function partsOf(entry: TensorEntry, multiple = 1): SourcePart[] {
  const rows = entry.shape[0] ?? 0;
  const most = Math.floor((stagingBytes * rows) / entry.byteLength / multiple);
  const atOnce = Math.max(1, most) * multiple;
  const parts: SourcePart[] = [];
  for (let firstRow = 0; firstRow < rows; firstRow += atOnce)
    parts.push({ entry, firstRow, rows: Math.min(atOnce, rows - firstRow) });
  return parts;
}

export function wholeOf(entry: TensorEntry): SourcePart {
  return { entry, firstRow: 0, rows: entry.shape[0] ?? 0 };
}

function partBytes({ entry, rows }: SourcePart): number {
  return (entry.byteLength / (entry.shape[0] ?? 1)) * rows;
}

function sourceBytes({ parts }: LoadTask): number {
  return parts.reduce((sum, part) => sum + partBytes(part), 0);
}

function bufferBytes({ parts, scratchBytes = 0 }: LoadTask): number {
  return parts.reduce(
    (sum, { entry, rows }) => sum + Scratch.bytes(entry.dtype as DType, [rows, ...entry.shape.slice(1)]),
    scratchBytes,
  );
}

async function openFiles(tasks: readonly LoadTask[]): Promise<Map<string, FileHandle>> {
  const files = new Map<string, FileHandle>();
  try {
    for (const { parts } of tasks)
      for (const { entry } of parts) if (!files.has(entry.path)) files.set(entry.path, await open(entry.path));
  } catch (cause) {
    await Promise.all([...files.values()].map((file) => file.close()));
    throw new Qwen2Error('io_error', `A file of the checkpoint can't be opened: ${(cause as Error).message}`, {
      cause,
    });
  }
  return files;
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
