import { type FileHandle, open } from 'node:fs/promises';
import type { SourcePart } from '../checkpoint/loader.js';
import { nativeAddon } from '../native/addon.js';
import { Qwen2Error } from '../native/errors.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';

/** Reads rows of a checkpoint's tensors into device memory, on threads. Each file is opened once. */
export class SourceReader {
  readonly #stream: Stream;
  readonly #files = new Map<string, Promise<FileHandle>>();

  constructor(stream: Stream) {
    this.#stream = stream;
  }

  /** Fills `into`, a contiguous tensor of the file's dtype. @throws io_error */
  async read({ entry, firstRow, rows }: SourcePart, { storage, byteOffset }: Tensor): Promise<void> {
    const rowBytes = entry.byteLength / entry.shape[0]!;
    try {
      const { fd } = await this.#open(entry.path);
      const offset = entry.offset + firstRow * rowBytes;
      await nativeAddon().readFile(this.#stream.id, fd, offset, rows * rowBytes, storage.id, byteOffset);
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
