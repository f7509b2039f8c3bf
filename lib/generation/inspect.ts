import type { Qwen2Config } from '../checkpoint/config.js';
import { openCheckpoint } from '../checkpoint/folder.js';
import type { KvCacheOptions } from '../engine/memory.js';
import { blockSize, type CacheDType, KvCache } from '../model/kvCache.js';
import { planWeights, type WeightOptions, type WeightPlan } from '../model/plan.js';
import { parameterCount } from '../model/weights.js';
import { Device, listDevices } from '../native/device.js';
import { hasTokenizer } from '../tokenizer/tokenizer.js';

/** How a checkpoint would be loaded. */
export interface InspectOptions extends WeightOptions {
  kvCache?: Pick<KvCacheOptions, 'dtype'> | undefined;
}

/** What a checkpoint's folder holds, and what of it fits where. */
export interface CheckpointSummary {
  config: Qwen2Config;
  parameters: number;
  /** Of all tensors in the files. */
  fileBytes: number;
  hasTokenizer: boolean;
  /** Every usable device. */
  devices: DeviceFit[];
}

export interface DeviceFit {
  name: string;
  freeBytes: number;
  /** What the weights take there. */
  weightBytes: number;
  /** What generating one token reads of them, or one token of each of several sequences. */
  decodeWeightBytes: number;
  /** What a token's keys and values take there, in all layers. */
  cacheBytesPerToken: number;
  /** Tokens that the KV cache has room for beside the weights; 0 if not even those fit. */
  cacheTokens: number;
  /** Sequences of the model's full context that this is. */
  fullContexts: number;
}

/**
 * Reads all of a checkpoint but its tensors.
 *
 * @param options how it would be loaded
 * @throws not_found, invalid_checkpoint, unsupported, io_error, invalid_argument
 */
export async function inspectCheckpoint(folder: string, options: InspectOptions = {}): Promise<CheckpointSummary> {
  const checkpoint = await openCheckpoint(folder);
  const { config, byteLength } = checkpoint;
  const plan = await planWeights(checkpoint, options);
  return {
    config,
    parameters: parameterCount(config),
    fileBytes: byteLength,
    hasTokenizer: await hasTokenizer(folder),
    devices: (await listDevices())
      .filter(({ available }) => available)
      .map(({ name }) => fitOn(name, plan, options.kvCache?.dtype)),
  };
}

function fitOn(name: string, plan: WeightPlan, cacheDtype: CacheDType = 'bf16'): DeviceFit {
  const { config } = plan;
  const device = Device.open(name);
  try {
    const { freeBytes } = device.describe();
    const weightBytes = plan.bytesOn(device);
    const cacheBytesPerToken = KvCache.blockBytes(device, config, cacheDtype) / blockSize;
    const cacheTokens = Math.max(0, Math.floor((freeBytes - weightBytes) / cacheBytesPerToken));
    return {
      name,
      freeBytes,
      weightBytes,
      decodeWeightBytes: plan.decodeBytesOn(device),
      cacheBytesPerToken,
      cacheTokens,
      fullContexts: Math.floor(cacheTokens / config.contextLength),
    };
  } finally {
    device.dispose();
  }
}
