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

/** One tensor of a file and where on the device it goes. */
export interface WeightTarget {
  source: TensorEntry;
  into: Tensor;
  part: 'norm' | 'qkv' | 'qkvBias' | 'output' | 'gateUp' | 'down' | 'embedding' | 'lmHead';
  rowOffset: number;
  gateOrUp?: 0 | 1 | undefined;
}

/** A run of rows of one tensor, small enough for a staging buffer. */
interface Chunk extends WeightTarget {
  firstRow: number;
  rows: number;
  columns: number;
}

interface LoaderOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** Staging buffers: enough that the disk and the packing are both always busy. */
const stagingBuffers = 4;
const stagingBytes = 16 << 20;

/**
 * Streams tensors from files to a device: parts are read into staging buffers on threads, in parallel with the packing of
 * the parts before them. Host memory beyond the model: the staging buffers, 64 MiB, or one row where that is longer.
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
  async load(targets: readonly WeightTarget[]): Promise<void> {
    const chunks = targets.flatMap(chunksOf);
    const largest = Math.max(...chunks.map(byteLength));
    const totalBytes = chunks.reduce((sum, chunk) => sum + byteLength(chunk), 0);
    let loadedBytes = 0;
    const files = await openFiles(targets);
    const staging: Storage[] = [];
    let next = 0;
    const work = async (buffer: Storage) => {
      for (let chunk = chunks[next++]; chunk !== undefined; chunk = chunks[next++]) {
        throwIfAborted(this.#signal, 'Loading');
        await this.#loadChunk(chunk, files.get(chunk.source.path)!, buffer);
        loadedBytes += byteLength(chunk);
        this.#onProgress?.({ loadedBytes, totalBytes });
      }
    };
    try {
      while (staging.length < stagingBuffers) staging.push(this.#device.allocate(largest));
      await settleAll(staging.map(work), () => {
        next = chunks.length;
      });
    } finally {
      await Promise.all([...files.values()].map((file) => file.close()));
      await Promise.all(staging.map((buffer) => buffer.dispose()));
      await this.#device.trimStaging();
    }
  }

  async #loadChunk(chunk: Chunk, file: FileHandle, buffer: Storage): Promise<void> {
    const { source, firstRow, rows, columns } = chunk;
    const bytes = byteLength(chunk);
    const rowBytes = bytes / rows;
    try {
      await nativeAddon().readFile(this.#stream.id, file.fd, source.offset + firstRow * rowBytes, bytes, buffer.id, 0);
    } catch (cause) {
      if (!(cause instanceof Qwen2Error)) throw cause;
      throw new Qwen2Error(cause.code, `${source.path}, tensor ${source.name}: ${cause.message}`, { cause });
    }
    const shape = source.shape.length === 1 ? [rows] : [rows, columns];
    place(this.#stream, chunk, new Tensor(buffer, source.dtype as DType, shape));
    await this.#stream.synchronized();
  }
}

/** Enqueues the operation that turns a part of a file into a part of a device tensor. */
function place(stream: Stream, chunk: Chunk, source: Tensor): void {
  const { into, part, firstRow, rows, gateOrUp } = chunk;
  const row = chunk.rowOffset + firstRow;
  if (part === 'gateUp') stream.run('swiglu_pack', { source, weight: into, part: gateOrUp!, row_offset: row });
  else if (part === 'norm' || part === 'qkvBias') stream.run('convert', { source, out: into.narrow(0, row, rows) });
  else if (part === 'embedding') stream.run('convert', { source, out: into.narrow(0, row, rows) });
  else stream.run('linear_pack', { source, weight: into, row_offset: row });
}

function chunksOf(target: WeightTarget): Chunk[] {
  const [rows = 0, columns = 1] = target.source.shape;
  const rowBytes = columns * dtypeBytes[target.source.dtype as DType];
  const rowsAtOnce = Math.max(1, Math.floor(stagingBytes / rowBytes));
  const chunks: Chunk[] = [];
  for (let firstRow = 0; firstRow < rows; firstRow += rowsAtOnce)
    chunks.push({ ...target, firstRow, rows: Math.min(rowsAtOnce, rows - firstRow), columns });
  return chunks;
}

function byteLength(chunk: Chunk): number {
  return chunk.rows * chunk.columns * dtypeBytes[chunk.source.dtype as DType];
}

async function openFiles(targets: readonly WeightTarget[]): Promise<Map<string, FileHandle>> {
  const files = new Map<string, FileHandle>();
  try {
    for (const { source } of targets) if (!files.has(source.path)) files.set(source.path, await open(source.path));
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
