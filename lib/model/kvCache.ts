import type { Qwen2Config } from '../checkpoint/config.js';
import type { Device } from '../native/device.js';
import { type DType, Tensor } from '../native/tensor.js';

/** Tokens a block holds: small enough that a sequence wastes little, a multiple of every device's tile of keys. */
export const blockSize = 16;

/** The keys and values of all sequences, in blocks of `blockSize` tokens; block b is row b of every layer's tensor. */
export class KvCache {
  readonly blocks: number;
  readonly layers: readonly Tensor[];

  private constructor(blocks: number, layers: readonly Tensor[]) {
    this.blocks = blocks;
    this.layers = layers;
  }

  /** @throws out_of_memory */
  static async allocate(device: Device, config: Qwen2Config, activation: DType, blocks: number): Promise<KvCache> {
    const bytes = device.kvBlockBytes(activation, config.numKvHeads, config.headDim, blockSize);
    const layers: Tensor[] = [];
    const cache = new KvCache(blocks, layers);
    try {
      while (layers.length < config.numHiddenLayers)
        layers.push(new Tensor(await device.allocateInBackground(blocks * bytes), 'u8', [blocks, bytes]));
    } catch (error) {
      await cache.dispose();
      throw error;
    }
    return cache;
  }

  /** Bytes that a block takes in all layers together. */
  static blockBytes(device: Device, config: Qwen2Config, activation: DType): number {
    return config.numHiddenLayers * device.kvBlockBytes(activation, config.numKvHeads, config.headDim, blockSize);
  }

  async dispose(): Promise<void> {
    await Promise.all(this.layers.map((layer) => layer.storage.dispose()));
  }
}
