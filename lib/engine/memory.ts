import { describe } from '../checkpoint/jsonFile.js';
import { blockSize, type CacheDType, KvCache, quantizedHeadDim } from '../model/kvCache.js';
import type { WeightPlan } from '../model/plan.js';
import type { StepLimits } from '../model/step.js';
import { Workspace } from '../model/workspace.js';
import type { Device } from '../native/device.js';
import { Qwen2Error } from '../native/errors.js';

export interface EngineOptions {
  /** Tokens of a sequence at most, prompt and output. Default: what the model was made for, if the cache can hold it. */
  contextLength?: number | undefined;
  /** Sequences that are computed together at most. Default 16. */
  maxSequences?: number | undefined;
  /** Tokens that the KV cache holds, of all sequences. Default: as many as half of the free memory has room for, and no
   * more than `maxSequences` full contexts. */
  cacheTokens?: number | undefined;
  kvCache?: KvCacheOptions | undefined;
  /** Tokens of one step at most: larger is faster for prompts, smaller lets others go on sooner. Default 512. */
  stepTokens?: number | undefined;
}

export interface KvCacheOptions {
  /** Its size by its memory instead of by tokens: bytes, or a part of what weights and workspace leave free, such as '90%'. */
  memory?: number | `${number}%` | undefined;
  /**
   * As what keys and values are held. Default 'bf16'. 'fp8' (E4M3) and 'int8' take half the memory, with a scale for each
   * head of a token.
   */
  dtype?: 'bf16' | 'fp8' | 'int8' | undefined;
}

/** What an engine allocates beside the weights, and what it can then hold. */
export interface EnginePlan {
  contextLength: number;
  cacheBlocks: number;
  cacheDtype: CacheDType;
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
  activation: 'bf16' | 'f32',
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
  checkKvCache(options.kvCache);
  const cacheDtype = cacheDtypeFor(options.kvCache, activation, config.headDim);
  const blockBytes = KvCache.blockBytes(device, config, cacheDtype);
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
    cacheDtype,
    limits: limitsFor(contextLength),
    cacheBytes: blocks * blockBytes,
    workspaceBytes,
  };
}

function checkKvCache(kvCache: KvCacheOptions = {}): void {
  for (const name of Object.keys(kvCache))
    if (name !== 'memory' && name !== 'dtype')
      throw new Qwen2Error('invalid_argument', `There is no option kvCache.${name}; known are memory and dtype`);
}

function cacheDtypeFor(kvCache: KvCacheOptions | undefined, activation: 'bf16' | 'f32', headDim: number): CacheDType {
  const dtype: unknown = kvCache?.dtype === undefined ? activation : kvCache.dtype;
  if (dtype !== 'fp8' && dtype !== 'int8') {
    if (dtype === activation) return activation;
    const asActivations = activation === 'bf16' ? "'bf16'" : `left out for dtype '${activation}'`;
    throw new Qwen2Error(
      'invalid_argument',
      `kvCache.dtype must be 'fp8', 'int8' or ${asActivations}; it is ${describe(dtype)}`,
    );
  }
  if (headDim % quantizedHeadDim !== 0)
    throw new Qwen2Error(
      'unsupported',
      `kvCache.dtype '${dtype}' needs heads of a multiple of ${quantizedHeadDim}; this model's are of ${headDim}. Leave it out`,
    );
  return dtype;
}

/** Blocks of a cache whose size was asked for, in tokens or in bytes. */
function blocksAskedFor({ cacheTokens, kvCache }: EngineOptions, room: number, blockBytes: number): number | undefined {
  if (cacheTokens !== undefined && kvCache?.memory !== undefined)
    throw new Qwen2Error('invalid_argument', 'Give cacheTokens or kvCache.memory, not both');
  if (cacheTokens !== undefined) return Math.ceil(wholeNumber('cacheTokens', cacheTokens, 0, 2 ** 31) / blockSize);
  const memory: unknown = kvCache?.memory;
  if (memory === undefined) return undefined;
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
