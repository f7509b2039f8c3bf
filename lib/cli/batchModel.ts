import type { Command } from 'commander';
import { defaultDevice, type LoadOptions, type Model, Qwen2Error } from '../index.js';
import { addBatchInvariantOption, addLoadOptions, type LoadArguments, loadOptions, wholeNumber } from './options.js';
import { loadWithProgress } from './terminal.js';

/** What the commands take that compute batches, beside what all take that load a checkpoint. */
export interface BatchModelArguments extends LoadArguments {
  sequences: number;
  kvCacheMemory?: number | `${number}%`;
  batchInvariant?: boolean;
}

/** What the KV cache gets where nobody says: of a GPU's memory nearly all, of the computer's what leaves others room. */
const cacheDefaults = "(default: 90% of what a GPU's weights leave; half of the free memory on the CPU)";

export function addBatchModelOptions(command: Command): Command {
  return addBatchInvariantOption(addLoadOptions(command))
    .option('-b, --sequences <n>', 'requests that are computed together', wholeNumber, 64)
    .option('--kv-cache-memory <size>', `bytes of the KV cache, or a part such as 90% ${cacheDefaults}`, cacheMemory);
}

/** @throws as loadModel */
export async function loadBatchModel(folder: string, options: BatchModelArguments): Promise<Model> {
  if (options.sequences < 1) throw new Qwen2Error('invalid_argument', '--sequences must be 1 or more');
  const device = options.device === 'auto' ? await defaultDevice() : options.device;
  return loadWithProgress(folder, batchLoadOptions({ ...options, device }));
}

/**
 * What a batch loads its model with, on a device that is known. A batch wants throughput: many sequences at once, and a GPU
 * to itself. Where the cache is too small for so many, fewer run.
 */
export function batchLoadOptions(options: BatchModelArguments): LoadOptions {
  const { device, sequences, kvCacheMemory, batchInvariant } = options;
  const given = loadOptions(options);
  const isGpu = /^cuda(:\d+)?$/.test(device);
  const memory = kvCacheMemory ?? (isGpu ? '90%' : undefined);
  return { ...given, batchInvariant, maxSequences: sequences, kvCache: { ...given.kvCache, memory } };
}

/** As the library takes it, which also checks it. */
function cacheMemory(text: string): number | `${number}%` {
  return text.endsWith('%') ? (text as `${number}%`) : wholeNumber(text);
}
