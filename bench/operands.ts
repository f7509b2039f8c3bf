import type { CacheDType } from '../lib/model/kvCache.js';
import { bf16Weight, type Device, type WeightType } from '../lib/native/device.js';
import type { Stream } from '../lib/native/stream.js';
import { type DType, type Layout, Tensor } from '../lib/native/tensor.js';

type WeightLayout = Exclude<Layout, 'strided'>;

/** Makes random operands on a device, and frees them all. */
export class Operands {
  readonly device: Device;
  readonly stream: Stream;
  readonly #tensors: Tensor[] = [];
  readonly #sources = new Map<string, Tensor>();
  #seed = 1;

  constructor(device: Device, stream: Stream) {
    this.device = device;
    this.stream = stream;
  }

  /** Uniformly distributed around `mean`. */
  random(dtype: 'bf16' | 'f32', shape: readonly number[], std = 1, mean = 0): Tensor {
    return this.#fill(this.#keep(this.device.tensor(dtype, shape)), std, mean);
  }

  weight(layout: WeightLayout, rows: number, columns: number, type: WeightType = bf16Weight): Tensor {
    const weight = this.#keep(this.device.weight(layout, rows, columns, type));
    if (type.dtype === 'bf16') return this.#fill(weight, 0.02, 0);
    if (type.dtype === 'int8') this.#packInt8(weight);
    else this.#packInt4(weight);
    return weight;
  }

  empty(dtype: DType, shape: readonly number[]): Tensor {
    return this.#keep(this.device.tensor(dtype, shape));
  }

  integers(shape: readonly number[], values: Int32Array): Tensor {
    const tensor = this.empty('i32', shape);
    this.stream.upload(tensor, values);
    return tensor;
  }

  floats(shape: readonly number[], values: Float32Array): Tensor {
    const tensor = this.empty('f32', shape);
    this.stream.upload(tensor, values);
    return tensor;
  }

  /** A KV cache whose every element, and scale, is a number: random bits could be NaN. */
  cache(dtype: CacheDType, blocks: number, kvHeads: number, headDim: number, blockSize: number): Tensor {
    const bytes = this.device.kvBlockBytes(dtype, kvHeads, headDim, blockSize);
    const storage = this.device.allocate(blocks * bytes);
    const cache = this.#keep(new Tensor(storage, 'u8', [blocks, bytes]));
    this.#fill(new Tensor(storage, 'bf16', [(blocks * bytes) / 2]), 1, 0);
    return cache;
  }

  #packInt8(weight: Tensor): void {
    const [rows, columns] = weight.shape as [number, number];
    const source = this.#once(`int8 ${weight.shape}`, () => this.random('bf16', [rows, columns], 0.02));
    this.stream.run('linear_int8_pack', { source, weight, row_offset: 0 });
  }

  /** AWQ's words: any bits are numbers. */
  #packInt4(weight: Tensor): void {
    const [rows, columns] = weight.shape as [number, number];
    const parts = weight.layout === 'swigluWeight' ? 2 : 1;
    const [R, G] = [rows / parts, columns / weight.group];
    const qweight = this.#once(`int4 ${R} ${columns}`, () => this.#words([columns, R / 8]));
    const qzeros = this.#once(`zeros ${R} ${G}`, () => this.#words([G, R / 8]));
    const scales = this.#once(`scales ${R} ${G}`, () => {
      const tensor = this.empty('f16', [G, R]);
      this.stream.upload(tensor, new Uint16Array(G * R).fill(0x1c00));
      return tensor;
    });
    const source = { qweight, qzeros, scales, columns: undefined, format: 0, weight, row_offset: 0 };
    if (parts === 1) this.stream.run('linear_int4_pack', source);
    else for (const part of [0, 1]) this.stream.run('swiglu_int4_pack', { ...source, part });
  }

  #words(shape: readonly [number, number]): Tensor {
    const words = new Int32Array(shape[0] * shape[1]);
    for (let i = 0; i < words.length; i++) words[i] = Math.imul(i + 1, 0x9e3779b1);
    return this.integers(shape, words);
  }

  /** What copies of an operand are made of. */
  #once(key: string, make: () => Tensor): Tensor {
    const made = this.#sources.get(key) ?? make();
    this.#sources.set(key, made);
    return made;
  }

  async dispose(): Promise<void> {
    await this.stream.synchronized().catch(() => {});
    await Promise.all(this.#tensors.map((tensor) => tensor.storage.dispose()));
  }

  #keep(tensor: Tensor): Tensor {
    this.#tensors.push(tensor);
    return tensor;
  }

  #fill(out: Tensor, std: number, mean: number): Tensor {
    this.stream.run('fill_random', { out, seed: this.#seed++, mean, std });
    return out;
  }
}
