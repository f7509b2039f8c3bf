import type { Qwen2Config } from '../checkpoint/config.js';
import type { Device } from '../native/device.js';

import { type DType, Tensor } from '../native/tensor.js';

/** Tokens a block holds: small enough that a sequence wastes little, a multiple of every device's tile of keys. */
export const blockSize = 16;

/** The keys and values of all sequences, in blocks of `blockSize` tokens; block b is row b of every layer's tensor. */
export class KvCache {
  readonly blocks: number;
  readonly layers: readonly Tensor[];

  constructor(device: Device, config: Qwen2Config, activation: DType, blocks: number) {
    this.blocks = blocks;
    const bytes = device.kvBlockBytes(activation, config.numKvHeads, config.headDim, blockSize);
    this.layers = Array.from(
      { length: config.numHiddenLayers },
      () => new Tensor(device.allocate(blocks * bytes), 'u8', [blocks, bytes]),
    );
  }

  /** Bytes that a block takes in all layers together. */
  static blockBytes(device: Device, config: Qwen2Config, activation: DType): number {
    return config.numHiddenLayers * device.kvBlockBytes(activation, config.numKvHeads, config.headDim, blockSize);
  }

  async dispose(): Promise<void> {
    await Promise.all(this.layers.map((layer) => layer.storage.dispose()));
  }
}
