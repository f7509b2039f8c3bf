import type { Qwen2Config } from '../checkpoint/config.js';
import { openCheckpoint } from '../checkpoint/folder.js';
import { blockSize, KvCache } from '../model/kvCache.js';
import { parameterCount, weightBytes } from '../model/weights.js';
import { Device, listDevices } from '../native/device.js';
import { hasTokenizer } from '../tokenizer/tokenizer.js';

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
  /** What a token's keys and values take there, in all layers. */
  cacheBytesPerToken: number;
  /** Tokens that the KV cache has room for beside the weights; 0 if not even those fit. */
  cacheTokens: number;
}

/** Reads all of a checkpoint but its tensors. @throws not_found, invalid_checkpoint, unsupported, io_error */
export async function inspectCheckpoint(folder: string): Promise<CheckpointSummary> {
  const { config, byteLength } = await openCheckpoint(folder);
  return {
    config,
    parameters: parameterCount(config),
    fileBytes: byteLength,
    hasTokenizer: await hasTokenizer(folder),
    devices: (await listDevices()).filter(({ available }) => available).map(({ name }) => fitOn(name, config)),
  };
}

function fitOn(name: string, config: Qwen2Config): DeviceFit {
  const device = Device.open(name);
  try {
    const { freeBytes } = device.describe();
    const weights = weightBytes(device, config);
    const cacheBytesPerToken = KvCache.blockBytes(device, config, 'bf16') / blockSize;
    const cacheTokens = Math.max(0, Math.floor((freeBytes - weights) / cacheBytesPerToken));
    return { name, freeBytes, weightBytes: weights, cacheBytesPerToken, cacheTokens };
  } finally {
    device.dispose();
  }
}
