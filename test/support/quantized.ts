import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import type { TensorEntry } from '../../lib/checkpoint/safetensors.js';
import { fromBf16 } from './bf16.js';
import { fromF16 } from './f16.js';
import { fromWords, type Int4Matrix } from './int4Formats.js';

/** The tensors of a checkpoint's folder, read and decoded. */
export class Tensors {
  readonly #entries: ReadonlyMap<string, TensorEntry>;

  static async of(folder: string): Promise<Tensors> {
    return new Tensors((await openCheckpoint(folder)).tensors);
  }

  private constructor(entries: ReadonlyMap<string, TensorEntry>) {
    this.#entries = entries;
  }

  get names(): string[] {
    return [...this.#entries.keys()].sort();
  }

  entry(name: string): TensorEntry {
    const found = this.#entries.get(name);
    if (found === undefined) throw new Error(`There is no tensor ${name}`);
    return found;
  }

  /** The numbers of a float tensor. */
  async numbers(name: string): Promise<Float32Array> {
    const bytes = await this.#bytes(name);
    const { dtype } = this.entry(name);
    if (dtype === 'f32') return new Float32Array(bytes);
    return Float32Array.from(new Uint16Array(bytes), dtype === 'f16' ? fromF16 : fromBf16);
  }

  /** A module's 4-bit matrix. */
  async matrix(module: string): Promise<Int4Matrix> {
    const [qweight, qzeros, scales] = await Promise.all(
      ['qweight', 'qzeros', 'scales'].map((suffix) => this.#bytes(`${module}.${suffix}`)),
    );
    const words = {
      qweight: new Int32Array(qweight!),
      qzeros: new Int32Array(qzeros!),
      scales: new Uint16Array(scales!),
    };
    const [G, N] = this.entry(`${module}.scales`).shape as [number, number];
    return fromWords('awq', words, N, this.entry(`${module}.qweight`).shape[0]!, G);
  }

  async #bytes(name: string): Promise<ArrayBuffer> {
    const { path, offset, byteLength } = this.entry(name);
    return Uint8Array.from((await readFile(path)).subarray(offset, offset + byteLength)).buffer;
  }
}

/** Every file of a folder, by name. */
export async function filesOf(folder: string): Promise<Record<string, Buffer>> {
  const names = (await readdir(folder)).sort();
  return Object.fromEntries(await Promise.all(names.map(async (name) => [name, await readFile(join(folder, name))])));
}
