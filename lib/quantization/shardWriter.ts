import { Scratch } from '../checkpoint/loader.js';
import {
  partBytes,
  partsOf,
  type SourcePart,
  stagingBytes,
  type TensorReader,
  wholeOf,
} from '../checkpoint/tensorReader.js';
import type { SourceTensor } from '../model/names.js';
import type { Device } from '../native/device.js';
import { throwIfAborted } from '../native/errors.js';
import type { Storage } from '../native/storage.js';
import type { Stream } from '../native/stream.js';
import { type DType, dtypeBytes, Tensor } from '../native/tensor.js';
import { namingTensor } from './namingTensor.js';
import { type FileTensor, ShardFile } from './shardFile.js';
import { type Shard, type ShardSource, wordRows } from './shards.js';

/** What a tensor is multiplied with before it is rounded. f32 vectors on the device. */
export interface Scales {
  /** [R] */
  rows?: Tensor | undefined;
  /** [K], or of a vector its elements. */
  columns?: Tensor | undefined;
}

export interface WriterOptions {
  clipSteps: number;
  signal: AbortSignal | undefined;
  /** Called with bytes of the checkpoint that are done with. */
  onBytes(bytes: number): void;
}

/** Tensors that are read, rounded and written at the same time: the disk and the device are both busy then. */
const workers = 3;

/** Work on one tensor, or of one that stays f16 on some of its rows. */
type Job = (buffer: Storage) => Promise<void>;

/**
 * Writes the files of a quantized checkpoint. Memory: of each worker 16 MiB of the source and what becomes of it, on the
 * device and on the host, and one rounded matrix.
 */
export class ShardWriter {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #reader: TensorReader;
  readonly #options: WriterOptions;
  #turn: Promise<unknown> = Promise.resolve();

  constructor(device: Device, stream: Stream, reader: TensorReader, options: WriterOptions) {
    this.#device = device;
    this.#stream = stream;
    this.#reader = reader;
    this.#options = options;
  }

  /** @throws io_error, aborted, out_of_memory; invalid_checkpoint for a number that is not finite */
  async write(path: string, shard: Shard, scalesOf: (source: SourceTensor) => Scales): Promise<void> {
    const file = await ShardFile.create(path, shard.tensors);
    try {
      const jobs = shard.sources.flatMap((source) => this.#jobs(source, scalesOf(source), file));
      await this.#runAll(jobs);
      await file.commit();
    } catch (error) {
      await file.discard();
      throw error;
    }
  }

  async #runAll(jobs: readonly Job[]): Promise<void> {
    let next = 0;
    const work = async () => {
      const buffer = await this.#device.allocateInBackground(workerBytes);
      try {
        for (let job = jobs[next++]; job !== undefined; job = jobs[next++]) {
          throwIfAborted(this.#options.signal, 'Quantizing');
          await job(buffer);
        }
      } finally {
        next = jobs.length;
        await buffer.dispose();
      }
    };
    // All are waited for, even when one fails, so that nothing writes to a file that is closed.
    const results = await Promise.allSettled(Array.from({ length: Math.min(workers, jobs.length) }, work));
    for (const result of results) if (result.status === 'rejected') throw result.reason;
  }

  #jobs(source: ShardSource, scales: Scales, file: ShardFile): Job[] {
    const { outputs } = source;
    if ('qweight' in outputs) return [(buffer) => this.#roundMatrix(source, outputs, scales, file, buffer)];
    return writerParts(source, 1).map((part) => (buffer) => this.#copyPart(part, outputs.plain, scales, file, buffer));
  }

  /** Some rows, or a vector, as f16. */
  async #copyPart(part: SourcePart, output: FileTensor, scales: Scales, file: ShardFile, buffer: Storage) {
    const scratch = new Scratch(buffer);
    const source = await this.#read(part, scratch);
    const out = scratch.take('f16', source.shape);
    const bytes = await this.#compute(part, async () => {
      this.#stream.run('scale', { source, row_scales: scales.rows, column_scales: scales.columns, out });
      return this.#download(out);
    });
    await file.write(output, part.firstRow * (bytes.length / part.rows), bytes);
    this.#options.onBytes(partBytes(part));
  }

  async #roundMatrix(
    source: ShardSource,
    outputs: Extract<ShardSource['outputs'], { qweight: FileTensor }>,
    scales: Scales,
    file: ShardFile,
    buffer: Storage,
  ): Promise<void> {
    const { qweight, qzeros, scales: factors } = outputs;
    const bytes = [
      Scratch.bytes('i32', qweight.shape),
      Scratch.bytes('i32', qzeros.shape),
      Scratch.bytes('f16', factors.shape),
    ];
    const storage = await this.#device.allocateInBackground(bytes.reduce((sum, n) => sum + n, 0));
    const space = new Scratch(storage);
    const matrix = {
      qweight: space.take('i32', qweight.shape),
      qzeros: space.take('i32', qzeros.shape),
      scales: space.take('f16', factors.shape),
    };
    try {
      for (const part of writerParts(source, wordRows)) {
        throwIfAborted(this.#options.signal, 'Quantizing');
        await this.#roundRows(part, matrix, scales, buffer);
        this.#options.onBytes(partBytes(part));
      }
      for (const name of ['qweight', 'qzeros', 'scales'] as const)
        await this.#writeTensor(matrix[name], outputs[name], file);
    } finally {
      await storage.dispose();
    }
  }

  /** Rounds rows of a matrix, which are columns of what is written. */
  async #roundRows(
    part: SourcePart,
    matrix: Record<'qweight' | 'qzeros' | 'scales', Tensor>,
    scales: Scales,
    buffer: Storage,
  ) {
    const { firstRow, rows } = part;
    const scratch = new Scratch(buffer);
    let source = await this.#read(part, scratch);
    await this.#compute(part, async () => {
      if (scales.rows) {
        const out = scratch.take('f32', source.shape);
        this.#stream.run('scale', { source, row_scales: scales.rows.narrow(0, firstRow, rows), out });
        source = out;
      }
      this.#stream.run('quantize_int4', {
        source,
        column_scales: scales.columns,
        qweight: matrix.qweight.narrow(1, firstRow / wordRows, rows / wordRows),
        qzeros: matrix.qzeros.narrow(1, firstRow / wordRows, rows / wordRows),
        scales: matrix.scales.narrow(1, firstRow, rows),
        clip_steps: this.#options.clipSteps,
      });
      await this.#stream.synchronized();
    });
  }

  async #writeTensor(tensor: Tensor, output: FileTensor, file: ShardFile): Promise<void> {
    const rowBytes = tensor.byteLength / tensor.shape[0]!;
    const atOnce = Math.max(1, Math.floor(stagingBytes / rowBytes));
    for (let row = 0; row < tensor.shape[0]!; row += atOnce) {
      throwIfAborted(this.#options.signal, 'Quantizing');
      const rows = tensor.narrow(0, row, Math.min(atOnce, tensor.shape[0]! - row));
      await file.write(output, row * rowBytes, await this.#inTurn(() => this.#download(rows)));
    }
  }

  /** A vector is read as one row. */
  async #read(part: SourcePart, scratch: Scratch): Promise<Tensor> {
    const { entry, rows } = part;
    const shape = entry.shape.length === 1 ? [1, rows] : [rows, entry.shape[1]!];
    const tensor = scratch.take(entry.dtype as DType, shape);
    await this.#reader.read(part, tensor);
    return tensor;
  }

  async #download(tensor: Tensor): Promise<Uint8Array> {
    const bytes = new Uint8Array(tensor.byteLength);
    const { storage, byteOffset } = tensor;
    await this.#stream.download(new Tensor(storage, 'u8', [bytes.length], { byteOffset }), bytes);
    return bytes;
  }

  #compute<T>({ entry }: SourcePart, body: () => Promise<T>): Promise<T> {
    return this.#inTurn(() => namingTensor(entry, this.#stream, body));
  }

  /** After what was asked before: the stream tells its earliest error to whoever waits, so one waits at a time. */
  #inTurn<T>(body: () => Promise<T>): Promise<T> {
    const result = this.#turn.then(body);
    this.#turn = result.catch(() => {});
    return result;
  }
}

/** A part of the source in bf16, as f32 and as f16 in scratch, and the padding between them. */
const workerBytes = 4 * stagingBytes;

/** Parts of a tensor that fit a worker's buffer as f32; a vector is one. */
function writerParts({ entry, shape }: ShardSource, multiple: number): SourcePart[] {
  return shape.length === 1 ? [wholeOf(entry)] : partsOf(entry, multiple, shape[1]! * dtypeBytes.f32);
}
