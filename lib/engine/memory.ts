import { blockSize, KvCache } from '../model/kvCache.js';
import type { WeightPlan } from '../model/plan.js';
import type { StepLimits } from '../model/step.js';
import { Workspace } from '../model/workspace.js';
import type { Device } from '../native/device.js';
import { Qwen2Error } from '../native/errors.js';
import type { DType } from '../native/tensor.js';

export interface EngineOptions {
  /** Tokens of a sequence at most, prompt and output. Default: what the model was made for, if the cache can hold it. */
  contextLength?: number | undefined;
  /** Sequences that are computed together at most. Default 16. */
  maxSequences?: number | undefined;
  /** Tokens that the KV cache holds, of all sequences. Default: as many as half of the free memory has room for, and no
   * more than `maxSequences` full contexts. */
  cacheTokens?: number | undefined;
  /** The same by its memory: so many bytes, or a part of what weights and workspace leave free, such as '90%'. */
  kvCache?: { memory: number | `${number}%` } | undefined;
  /** Tokens of one step at most: larger is faster for prompts, smaller lets others go on sooner. Default 512. */
  stepTokens?: number | undefined;
}

/** What an engine allocates beside the weights, and what it can then hold. */
export interface EnginePlan {
  contextLength: number;
  cacheBlocks: number;
  limits: StepLimits;
  /** Bytes of the KV cache and of the workspace. */
  cacheBytes: number;
  workspaceBytes: number;
}

/** Rows of logits at once, where all of a prompt's are wanted: enough to read the LM head seldom. */
const promptLogitRows = 64;

/**
 * Shares out the memory that is free on a device, once the weights are there.
 *
 * @throws invalid_argument for an option out of range, out_of_memory if what is asked for does not fit
 */
export function planMemory(
  device: Device,
  weights: WeightPlan,
  activation: DType,
  freeBytes: number,
  options: EngineOptions = {},
): EnginePlan {
  const { config } = weights;
  const sequences = wholeNumber('maxSequences', options.maxSequences, 16, 1024);
  const tokens = wholeNumber('stepTokens', options.stepTokens, Math.max(512, sequences), 65536);
  if (tokens < sequences)
    throw new Qwen2Error('invalid_argument', `stepTokens is ${tokens}; it must be at least maxSequences, ${sequences}`);
  const wanted = wholeNumber('contextLength', options.contextLength, config.contextLength, config.contextLength);
  const logitRows = Math.max(sequences, promptLogitRows);
  const limitsFor = (length: number): StepLimits => ({
    tokens,
    sequences,
    logitRows,
    blocksPerSequence: Math.ceil(length / blockSize),
  });
  const workspaceBytes = Workspace.bytes(weights, limitsFor(wanted), activation);
  const blockBytes = KvCache.blockBytes(device, config, activation);
  const room = Math.max(0, Math.floor((freeBytes - workspaceBytes) / 2 / blockBytes));
  const blocksOf = (length: number) => Math.ceil(length / blockSize);
  const asked = blocksAskedFor(options, freeBytes - workspaceBytes, blockBytes);
  const byDefault = Math.min(
    Math.max(room, options.contextLength === undefined ? 0 : blocksOf(wanted)),
    sequences * blocksOf(wanted),
  );
  const blocks = asked ?? byDefault;
  const contextLength = Math.min(wanted, blocks * blockSize);
  requireFit(device, { blocks, blockBytes, workspaceBytes, freeBytes, contextLength, asked: options.contextLength });
  return {
    contextLength,
    cacheBlocks: blocks,
    limits: limitsFor(contextLength),
    cacheBytes: blocks * blockBytes,
    workspaceBytes,
  };
}

/** Blocks of a cache whose size was asked for, in tokens or in bytes. */
function blocksAskedFor({ cacheTokens, kvCache }: EngineOptions, room: number, blockBytes: number): number | undefined {
  if (cacheTokens !== undefined && kvCache !== undefined)
    throw new Qwen2Error('invalid_argument', 'Give cacheTokens or kvCache, not both');
  if (cacheTokens !== undefined) return Math.ceil(wholeNumber('cacheTokens', cacheTokens, 0, 2 ** 31) / blockSize);
  if (kvCache === undefined) return undefined;
  const memory: unknown = kvCache?.memory;
  const percent = typeof memory === 'string' && /^\d+(\.\d+)?%$/.test(memory) ? Number.parseFloat(memory) : undefined;
  const bytes = percent === undefined ? memory : Math.max(0, room) * (percent / 100);
  if (typeof bytes !== 'number' || !(bytes >= 0 && bytes < 2 ** 53) || (percent ?? 0) > 100)
    throw new Qwen2Error(
      'invalid_argument',
      `kvCache.memory must be a number of bytes, or a part such as '90%'; it is ${String(memory)}`,
    );
  return Math.floor(bytes / blockBytes);
}

function requireFit(
  device: Device,
  plan: {
    blocks: number;
    blockBytes: number;
    workspaceBytes: number;
    freeBytes: number;
    contextLength: number;
    asked: number | undefined;
  },
): void {
  const { blocks, blockBytes, workspaceBytes, freeBytes, contextLength, asked } = plan;
  const needed = blocks * blockBytes + workspaceBytes;
  const megabytes = (bytes: number) => `${Math.ceil(bytes / 1e6)} MB`;
  if (needed > freeBytes || blocks === 0)
    throw new Qwen2Error(
      'out_of_memory',
      `The KV cache and the workspace need ${megabytes(Math.max(needed, workspaceBytes + blockBytes))} on ${device.name}, ` +
        `where ${megabytes(freeBytes)} are free beside the weights; lower contextLength, cacheTokens or maxSequences`,
    );
  if (asked !== undefined && contextLength < asked)
    throw new Qwen2Error(
      'invalid_argument',
      `contextLength ${asked} does not fit a cache of ${contextLength} tokens; raise cacheTokens or lower contextLength`,
    );
}

function wholeNumber(name: string, value: number | undefined, byDefault: number, max: number): number {
  const number = value ?? byDefault;
  if (Number.isInteger(number) && number >= 1 && number <= max) return number;
  throw new Qwen2Error('invalid_argument', `${name} must be a whole number from 1 to ${max}; it is ${String(value)}`);
}
