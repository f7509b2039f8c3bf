import { bf16Weight, type Device, type WeightType } from '../native/device.js';
import type { Storage } from '../native/storage.js';
import { type DType, dtypeBytes, Tensor } from '../native/tensor.js';

/** Device memory of a piece of work, given back together. */
export class DeviceScope {
  readonly #device: Device;
  readonly #storages: Storage[] = [];

  constructor(device: Device) {
    this.#device = device;
  }

  /** @throws out_of_memory */
  async tensor(dtype: DType, shape: readonly number[]): Promise<Tensor> {
    const bytes = shape.reduce((product, n) => product * n, dtypeBytes[dtype]);
    return new Tensor(await this.#allocate(bytes), dtype, shape);
  }

  /** A weight of `linear` or `linear_int4`, to be packed. @throws out_of_memory */
  async weight(rows: number, columns: number, type: WeightType = bf16Weight): Promise<Tensor> {
    const storage = await this.#allocate(this.#device.packedBytes(rows, columns, type));
    return new Tensor(storage, type.dtype, [rows, columns], { layout: 'linearWeight', group: type.group });
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#storages.splice(0).map((storage) => storage.dispose()));
  }

  async #allocate(bytes: number): Promise<Storage> {
    const storage = await this.#device.allocateInBackground(bytes);
    this.#storages.push(storage);
    return storage;
  }
}
