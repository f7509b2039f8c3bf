import type { Device } from '../lib/native/device.js';
import type { Stream } from '../lib/native/stream.js';
import { type DType, type Layout, Tensor } from '../lib/native/tensor.js';

/** Makes random operands on a device, and frees them all. */
export class Operands {
  readonly device: Device;
  readonly stream: Stream;
  readonly #tensors: Tensor[] = [];
  #seed = 1;

  constructor(device: Device, stream: Stream) {
    this.device = device;
    this.stream = stream;
  }

  /** Uniformly distributed around `mean`. */
  random(dtype: 'bf16' | 'f32', shape: readonly number[], std = 1, mean = 0): Tensor {
    return this.#fill(this.#keep(this.device.tensor(dtype, shape)), std, mean);
  }

  weight(layout: Exclude<Layout, 'strided'>, rows: number, columns: number): Tensor {
    return this.#fill(this.#keep(this.device.weight(layout, rows, columns)), 0.02, 0);
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

  /** A KV cache whose every element is a number: random bits could be NaN. */
  cache(blocks: number, kvHeads: number, headDim: number, blockSize: number): Tensor {
    const bytes = this.device.kvBlockBytes('bf16', kvHeads, headDim, blockSize);
    const storage = this.device.allocate(blocks * bytes);
    const cache = this.#keep(new Tensor(storage, 'u8', [blocks, bytes]));
    this.#fill(new Tensor(storage, 'bf16', [(blocks * bytes) / 2]), 1, 0);
    return cache;
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
