import type { Qwen2Config } from '../checkpoint/config.js';
import type { Device } from '../native/device.js';
import { Tensor } from '../native/tensor.js';
import type { KeySmoothing } from './keySmoothing.js';

/** As what keys and values are held: as the activations are, or rounded to 8 bits (csrc/core/kv_cache.h). */
export type CacheDType = 'bf16' | 'f32' | 'fp8' | 'int8';

/** Head dimensions that a cache of 8 bits can hold are multiples of this. */
export const quantizedHeadDim = 16;

/** Tokens a block holds: small enough that a sequence wastes little, a multiple of every device's tile of keys. */
export const blockSize = 16;

/** The keys and values of all sequences, in blocks of `blockSize` tokens; block b is row b of every layer's tensor. */
export class KvCache {
  readonly blocks: number;
  readonly dtype: CacheDType;
  readonly layers: readonly Tensor[];
  /** How keys are scaled before they are rounded; undefined if they are not. */
  readonly smoothing: KeySmoothing | undefined;

  private constructor(
    blocks: number,
    dtype: CacheDType,
    layers: readonly Tensor[],
    smoothing: KeySmoothing | undefined,
  ) {
    this.blocks = blocks;
    this.dtype = dtype;
    this.layers = layers;
    this.smoothing = smoothing;
  }

  /** Takes the smoothing over. @throws out_of_memory */
  static async allocate(
    device: Device,
    config: Qwen2Config,
    dtype: CacheDType,
    blocks: number,
    smoothing?: KeySmoothing,
  ): Promise<KvCache> {
    const bytes = device.kvBlockBytes(dtype, config.numKvHeads, config.headDim, blockSize);
    const layers: Tensor[] = [];
    const cache = new KvCache(blocks, dtype, layers, smoothing);
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
  static blockBytes(device: Device, config: Qwen2Config, dtype: CacheDType): number {
    return config.numHiddenLayers * device.kvBlockBytes(dtype, config.numKvHeads, config.headDim, blockSize);
  }

  async dispose(): Promise<void> {
    await Promise.all([this.smoothing?.dispose(), ...this.layers.map((layer) => layer.storage.dispose())]);
  }
}
