import { randomBytes } from 'node:crypto';
import { copyFile, type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Qwen2Error } from '../native/errors.js';

/** A tensor of a safetensors file (github.com/huggingface/safetensors). */
export interface FileTensor {
  name: string;
  dtype: 'I32' | 'F16';
  shape: readonly number[];
}

const elementBytes = { I32: 4, F16: 2 } as const;

export function tensorBytes({ dtype, shape }: FileTensor): number {
  return shape.reduce((product, n) => product * n, elementBytes[dtype]);
}

/** Bytes of a file of these tensors. */
export function fileBytes(tensors: readonly FileTensor[]): number {
  return headerOf(tensors).length + tensors.reduce((sum, tensor) => sum + tensorBytes(tensor), 0);
}

/** The length of the header in 8 bytes, then the header: JSON, padded so that the tensors begin at a multiple of 8. */
function headerOf(tensors: readonly FileTensor[]): Buffer {
  // Transformers refuses a file that does not say whose tensors it holds.
  const header: Record<string, object> = { __metadata__: { format: 'pt' } };
  let end = 0;
  for (const tensor of tensors) {
    const begin = end;
    end += tensorBytes(tensor);
    header[tensor.name] = { dtype: tensor.dtype, shape: tensor.shape, data_offsets: [begin, end] };
  }
  const json = Buffer.from(JSON.stringify(header));
  const bytes = Buffer.alloc(8 + 8 * Math.ceil(json.length / 8), ' ');
  bytes.writeBigUInt64LE(BigInt(bytes.length - 8));
  json.copy(bytes, 8);
  return bytes;
}

/** A file under a name of its own until it is whole and on the disk: under its final name there is never a part of it. */
export class WholeFile {
  readonly path: string;
  readonly #temporary: string;
  readonly #file: FileHandle;

  /** @throws io_error */
  static async create(path: string): Promise<WholeFile> {
    const temporary = `${path}.${randomBytes(4).toString('hex')}${temporaryEnding}`;
    try {
      return new WholeFile(path, temporary, await open(temporary, 'wx'));
    } catch (cause) {
      throw ioError(path, cause);
    }
  }

  private constructor(path: string, temporary: string, file: FileHandle) {
    this.path = path;
    this.#temporary = temporary;
    this.#file = file;
  }

  /** Writes bytes at a place; several at the same time. @throws io_error */
  async write(bytes: Uint8Array, position: number): Promise<void> {
    try {
      for (let at = 0; at < bytes.length; )
        at += (await this.#file.write(bytes, at, bytes.length - at, position + at)).bytesWritten;
    } catch (cause) {
      throw ioError(this.path, cause);
    }
  }

  /** Gives the file its name, when the disk has all of it. @throws io_error */
  async commit(): Promise<void> {
    try {
      await this.#file.sync();
      await this.#file.close();
      await rename(this.#temporary, this.path);
      await syncFolder(dirname(this.path));
    } catch (cause) {
      throw ioError(this.path, cause);
    }
  }

  /** Removes what was written. */
  async discard(): Promise<void> {
    await this.#file.close().catch(() => {});
    await rm(this.#temporary, { force: true });
  }
}

const temporaryEnding = '.part';

/** Whether a file of a folder is one that was never finished. */
export function isTemporary(fileName: string): boolean {
  return fileName.endsWith(temporaryEnding);
}

/** @throws io_error */
export async function writeWhole(path: string, text: string): Promise<void> {
  const file = await WholeFile.create(path);
  try {
    await file.write(Buffer.from(text), 0);
    await file.commit();
  } catch (error) {
    await file.discard();
    throw error;
  }
}

/** @throws io_error */
export async function copyWhole(from: string, folder: string, fileName: string): Promise<void> {
  const path = join(folder, fileName);
  const temporary = `${path}.${randomBytes(4).toString('hex')}${temporaryEnding}`;
  try {
    await copyFile(from, temporary);
    await rename(temporary, path);
  } catch (cause) {
    await rm(temporary, { force: true });
    throw ioError(path, cause);
  }
}

async function syncFolder(path: string): Promise<void> {
  const folder = await open(path);
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** A safetensors file whose tensors are written in parts, in any order. */
export class ShardFile {
  readonly #file: WholeFile;
  readonly #offsets: ReadonlyMap<string, number>;

  /** @throws io_error */
  static async create(path: string, tensors: readonly FileTensor[]): Promise<ShardFile> {
    const file = await WholeFile.create(path);
    const header = headerOf(tensors);
    const offsets = new Map<string, number>();
    let at = header.length;
    for (const tensor of tensors) {
      offsets.set(tensor.name, at);
      at += tensorBytes(tensor);
    }
    const shard = new ShardFile(file, offsets);
    try {
      await file.write(header, 0);
    } catch (error) {
      await shard.discard();
      throw error;
    }
    return shard;
  }

  private constructor(file: WholeFile, offsets: ReadonlyMap<string, number>) {
    this.#file = file;
    this.#offsets = offsets;
  }

  /** Writes bytes of a tensor, from its byte `at` on. @throws io_error */
  write({ name }: FileTensor, at: number, bytes: Uint8Array): Promise<void> {
    return this.#file.write(bytes, this.#offsets.get(name)! + at);
  }

  commit(): Promise<void> {
    return this.#file.commit();
  }

  discard(): Promise<void> {
    return this.#file.discard();
  }
}

export function ioError(path: string, cause: unknown): Qwen2Error {
  return new Qwen2Error('io_error', `${path} can't be written: ${(cause as Error).message}`, { cause });
}
