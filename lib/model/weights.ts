import type { Qwen2Config } from '../checkpoint/config.js';
import type { Checkpoint } from '../checkpoint/folder.js';
import { type LoadProgress, Scratch, WeightLoader } from '../checkpoint/loader.js';
import { stagingBytes } from '../checkpoint/tensorReader.js';
import type { Device } from '../native/device.js';
import { Qwen2Error } from '../native/errors.js';
import type { Storage } from '../native/storage.js';
import type { Stream } from '../native/stream.js';
import { dtypeBytes, Tensor } from '../native/tensor.js';
import { sourceTensors } from './names.js';
import { type Destination, loadTasks, place, placingBytes } from './placing.js';
import { planWeights, type Target, type WeightPlan } from './plan.js';

/** The model's tensors on a device, by the targets of names.ts. */
export class Weights {
  readonly plan: WeightPlan;
  readonly #tensors: ReadonlyMap<string, Destination>;

  constructor(plan: WeightPlan, tensors: ReadonlyMap<string, Destination>) {
    this.plan = plan;
    this.#tensors = tensors;
  }

  has(target: string): boolean {
    return this.#tensors.has(target);
  }

  get(target: string): Tensor {
    return this.#destination(target).tensor;
  }

  /** i32[K]: which column of its input a weight multiplies with column j; undefined: j. */
  order(target: string): Tensor | undefined {
    return this.#destination(target).order;
  }

  get byteLength(): number {
    return this.#storages().reduce((bytes, storage) => bytes + storage.bytes, 0);
  }

  async dispose(): Promise<void> {
    await Promise.all(this.#storages().map((storage) => storage.dispose()));
  }

  #destination(target: string): Destination {
    const found = this.#tensors.get(target);
    if (found === undefined) throw new Qwen2Error('internal', `The model has no tensor '${target}'`);
    return found;
  }

  #storages() {
    return [...this.#tensors.values()].flatMap(({ tensor, order }) =>
      order ? [tensor.storage, order.storage] : [tensor.storage],
    );
  }
}

/** Parameters of a model of this config; tied embeddings count once. */
export function parameterCount(config: Qwen2Config): number {
  return sourceTensors(config).reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);
}

interface LoadOptions {
  /** Default: as the checkpoint is. */
  plan?: WeightPlan | undefined;
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/**
 * Reads a checkpoint's tensors onto a device, as planned.
 *
 * @throws what planWeights throws; out_of_memory, io_error, aborted; invalid_argument for weights that can't be rounded
 */
export async function loadWeights(
  checkpoint: Checkpoint,
  device: Device,
  stream: Stream,
  options: LoadOptions = {},
): Promise<Weights> {
  const plan = options.plan ?? (await planWeights(checkpoint));
  const weights = new Weights(plan, await allocate(device, stream, plan));
  try {
    const tasks = [...plan.targets].flatMap(([key, target]) => {
      const into = { tensor: weights.get(key), order: weights.order(key) };
      return target.sources.flatMap((source) => loadTasks(target, source, checkpoint.tensors, into, stream));
    });
    await new WeightLoader(device, stream, options).load(tasks);
  } catch (error) {
    await weights.dispose();
    throw error;
  }
  return weights;
}

/** Of random weights: with 65536 numbers for the tensors of each, the operation's seeds are 31 bits long. */
const maxSeed = 32767;

/** Weights of any shape without a checkpoint: uniform with the spread of a fresh model, norms around one. */
export async function randomWeights(plan: WeightPlan, device: Device, stream: Stream, seed = 1): Promise<Weights> {
  if (!Number.isInteger(seed) || seed < 0 || seed > maxSeed)
    throw new Qwen2Error('invalid_argument', `seed must be a whole number from 0 to ${maxSeed}; it is ${String(seed)}`);
  const weights = new Weights(plan, await allocate(device, stream, plan));
  const buffer = device.allocate(Math.max(...[...plan.targets.values()].map(roundingBytes), 1));
  try {
    for (const [index, [key, target]] of [...plan.targets].entries()) {
      const tensorSeed = seed * 65536 + index;
      const out = weights.get(key);
      if (target.type.dtype !== 'bf16')
        fillRounded(target, { tensor: out, order: undefined }, tensorSeed, buffer, stream);
      else stream.run('fill_random', { out, seed: tensorSeed, ...spreadOf(target) });
    }
    await stream.synchronized();
  } catch (error) {
    await weights.dispose();
    throw error;
  } finally {
    await buffer.dispose();
  }
  return weights;
}

function spreadOf({ part }: Target): { mean: number; std: number } {
  return part === 'norm' ? { mean: 1, std: 0.1 } : { mean: 0, std: 0.02 };
}

/** Rows of a target that are made random, and then rounded, at once: as many as fit a staging buffer. */
function rowsAtOnce({ columns, sources }: Target): number {
  const most = Math.max(...sources.map(({ shape }) => shape[0]!));
  return Math.min(most, 8 * Math.max(1, Math.floor(stagingBytes / (8 * columns * dtypeBytes.bf16))));
}

function roundingBytes(target: Target): number {
  if (target.type.dtype === 'bf16') return 0;
  const rows = rowsAtOnce(target);
  return Scratch.bytes('bf16', [rows, target.columns]) + placingBytes(target, rows);
}

/** An int4 or int8 weight: random numbers, rounded as those of a checkpoint are. */
function fillRounded(target: Target, into: Destination, seed: number, buffer: Storage, stream: Stream): void {
  const atOnce = rowsAtOnce(target);
  let piece = 0;
  for (const source of target.sources)
    for (let row = 0; row < source.shape[0]!; row += atOnce) {
      const scratch = new Scratch(buffer);
      const rows = scratch.take('bf16', [Math.min(atOnce, source.shape[0]! - row), target.columns]);
      stream.run('fill_random', { out: rows, seed: (seed + 7919 * piece++) % 2 ** 31, ...spreadOf(target) });
      place(target, source, into, row, rows, scratch, stream);
    }
}

/** Bytes of a device that its weights leave free. @throws out_of_memory if they don't fit */
export function freeBesideWeights(device: Device, plan: WeightPlan): number {
  const needed = plan.bytesOn(device);
  const { freeBytes } = device.describe();
  if (needed > freeBytes)
    throw new Qwen2Error(
      'out_of_memory',
      `The model's weights take ${gigabytes(needed)} on ${device.name}, where ${gigabytes(freeBytes)} are free; ` +
        'use a smaller model, int4 weights or another device',
    );
  return freeBytes - needed;
}

async function allocate(device: Device, stream: Stream, plan: WeightPlan): Promise<Map<string, Destination>> {
  freeBesideWeights(device, plan);
  const tensors = new Map<string, Destination>();
  try {
    for (const [key, target] of plan.targets) {
      const { order } = target;
      const tensor = await allocateTarget(device, target);
      tensors.set(key, { tensor, order: undefined });
      if (order === undefined) continue;
      const columns = device.tensor('i32', [order.length]);
      tensors.set(key, { tensor, order: columns });
      stream.upload(columns, order);
    }
  } catch (error) {
    await new Weights(plan, tensors).dispose();
    throw error;
  }
  return tensors;
}

async function allocateTarget(device: Device, { layout, rows, columns, type }: Target): Promise<Tensor> {
  if (layout === 'vector') return device.tensor('f32', [rows]);
  if (layout === 'table')
    return new Tensor(await device.allocateInBackground(rows * columns * dtypeBytes.bf16), 'bf16', [rows, columns]);
  const storage = await device.allocateInBackground(device.packedBytes(rows, columns, type));
  return new Tensor(storage, type.dtype, [rows, columns], { layout, group: type.group });
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
