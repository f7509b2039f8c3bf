import { type FileHandle, open } from 'node:fs/promises';
import { nativeAddon } from '../native/addon.js';
import { Qwen2Error } from '../native/errors.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import type { TensorEntry } from './safetensors.js';

/** Rows of a tensor of a file; of a vector, elements. */
export interface SourcePart {
  entry: TensorEntry;
  firstRow: number;
  rows: number;
}

/** Bytes of a part that tensors are cut into. */
export const stagingBytes = 16 << 20;

/**
 * A tensor cut into parts of at most `stagingBytes`, or of one row where that is longer: of multiples of so many rows, but
 * for the last.
 *
 * @param rowBytes what a row takes where the part goes; default: in the file
 */
export function partsOf(entry: TensorEntry, multiple = 1, rowBytes = bytesOfRow(entry)): SourcePart[] {
  const rows = entry.shape[0] ?? 0;
  const atOnce = Math.max(1, Math.floor(stagingBytes / rowBytes / multiple)) * multiple;
  const parts: SourcePart[] = [];
  for (let firstRow = 0; firstRow < rows; firstRow += atOnce)
    parts.push({ entry, firstRow, rows: Math.min(atOnce, rows - firstRow) });
  return parts;
}

export function wholeOf(entry: TensorEntry): SourcePart {
  return { entry, firstRow: 0, rows: entry.shape[0] ?? 0 };
}

/** Bytes of the file. */
export function partBytes({ entry, rows }: SourcePart): number {
  return bytesOfRow(entry) * rows;
}

function bytesOfRow({ byteLength, shape }: TensorEntry): number {
  return byteLength / (shape[0] ?? 1);
}

/** Reads parts of tensors into device memory, on threads. Each file is opened once. */
export class TensorReader {
  readonly #stream: Stream;
  readonly #files = new Map<string, Promise<FileHandle>>();

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  /** Fills `into`, a contiguous tensor of the file's dtype. @throws io_error naming file and tensor */
  async read(part: SourcePart, { storage, byteOffset }: Tensor): Promise<void> {
    const { entry, firstRow } = part;
    const offset = entry.offset + firstRow * bytesOfRow(entry);
    try {
      const { fd } = await this.#open(entry.path);
      await nativeAddon().readFile(this.#stream.id, fd, offset, partBytes(part), storage.id, byteOffset);
    } catch (cause) {
      const code = cause instanceof Qwen2Error ? cause.code : 'io_error';
      throw new Qwen2Error(code, `${entry.path}, tensor ${entry.name}: ${(cause as Error).message}`, { cause });
    }
  }

  async close(): Promise<void> {
    const opened = await Promise.allSettled(this.#files.values());
    await Promise.all(opened.map((file) => (file.status === 'fulfilled' ? file.value.close() : undefined)));
  }

  #open(path: string): Promise<FileHandle> {
    const known = this.#files.get(path);
    if (known !== undefined) return known;
    const file = open(path);
    this.#files.set(path, file);
    return file;
  }
}
