import type { Qwen2Config } from '../checkpoint/config.js';
import type { Checkpoint } from '../checkpoint/folder.js';
import { type LoadProgress, WeightLoader, type WeightTarget } from '../checkpoint/loader.js';
import type { Device } from '../native/device.js';
import { Qwen2Error } from '../native/errors.js';
import type { Stream } from '../native/stream.js';
import { dtypeBytes, Tensor } from '../native/tensor.js';
import { type SourceTensor, sourceTensors } from './names.js';

/** The model's tensors on a device, by the targets of names.ts. */
export class Weights {
  readonly #tensors: ReadonlyMap<string, Tensor>;

  constructor(tensors: ReadonlyMap<string, Tensor>) {
    this.#tensors = tensors;
  }

  get(target: string): Tensor {
    const tensor = this.#tensors.get(target);
    if (tensor === undefined) throw new Qwen2Error('internal', `The model has no tensor '${target}'`);
    return tensor;
  }

  get byteLength(): number {
    let bytes = 0;
    for (const tensor of this.#tensors.values()) bytes += tensor.storage.bytes;
    return bytes;
  }

  async dispose(): Promise<void> {
    await Promise.all([...this.#tensors.values()].map((tensor) => tensor.storage.dispose()));
  }
}

/** Bytes that a model of this config takes on a device, without its KV cache. */
export function weightBytes(device: Device, config: Qwen2Config): number {
  let bytes = 0;
  for (const [, { part, rows, columns }] of targetShapes(config))
    bytes +=
      part === 'norm' || part === 'qkvBias'
        ? rows * 4
        : part === 'embedding'
          ? rows * columns * 2
          : device.packedBytes(rows, columns);
  return bytes;
}

/** Parameters of a model of this config; tied embeddings count once. */
export function parameterCount(config: Qwen2Config): number {
  return sourceTensors(config).reduce((sum, { shape }) => sum + shape.reduce((product, n) => product * n, 1), 0);
}

/** Bytes that a decode step reads of the weights: all but the embedding table, of which it reads a row. */
export function decodeBytes(device: Device, config: Qwen2Config): number {
  const table = config.tieWordEmbeddings ? 0 : config.vocabularySize * config.hiddenSize * 2;
  return weightBytes(device, config) - table;
}

interface LoadOptions {
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: LoadProgress) => void) | undefined;
}

/** Reads a checkpoint's tensors onto a device. @throws invalid_checkpoint naming every missing, extra or mis-shaped one */
export async function loadWeights(
  checkpoint: Checkpoint,
  device: Device,
  stream: Stream,
  options: LoadOptions = {},
): Promise<Weights> {
  const sources = sourceTensors(checkpoint.config);
  checkTensors(checkpoint, sources);
  const tensors = await allocate(device, checkpoint.config);
  try {
    const loader = new WeightLoader(device, stream, options);
    await loader.load(sources.map((source) => target(checkpoint, source, tensors)));
  } catch (error) {
    await new Weights(tensors).dispose();
    throw error;
  }
  return new Weights(tensors);
}

/** Of random weights: with 65536 numbers for the tensors of each, the operation's seeds are 31 bits long. */
const maxSeed = 32767;

/** Weights of any shape without a checkpoint: uniform with the spread of a fresh model, norms around one. */
export async function randomWeights(config: Qwen2Config, device: Device, stream: Stream, seed = 1): Promise<Weights> {
  if (!Number.isInteger(seed) || seed < 0 || seed > maxSeed)
    throw new Qwen2Error('invalid_argument', `seed must be a whole number from 0 to ${maxSeed}; it is ${String(seed)}`);
  const tensors = await allocate(device, config);
  const weights = new Weights(tensors);
  try {
    for (const [index, [key, out]] of [...tensors].entries()) {
      const isNorm = key.toLowerCase().endsWith('norm');
      stream.run('fill_random', { out, seed: seed * 65536 + index, mean: isNorm ? 1 : 0, std: isNorm ? 0.1 : 0.02 });
    }
    await stream.synchronized();
  } catch (error) {
    await weights.dispose();
    throw error;
  }
  return weights;
}

interface TargetShape {
  part: SourceTensor['part'];
  rows: number;
  columns: number;
}

function targetShapes(config: Qwen2Config): Map<string, TargetShape> {
  const shapes = new Map<string, TargetShape>();
  for (const { target, part, shape } of sourceTensors(config)) {
    const [rows = 0, columns = 1] = shape;
    const known = shapes.get(target);
    if (known) known.rows += rows;
    else shapes.set(target, { part, rows, columns });
  }
  return shapes;
}

/** Bytes of a device that its weights leave free. @throws out_of_memory if they don't fit */
export function freeBesideWeights(device: Device, config: Qwen2Config): number {
  const needed = weightBytes(device, config);
  const { freeBytes } = device.describe();
  if (needed > freeBytes)
    throw new Qwen2Error(
      'out_of_memory',
      `The model's weights take ${gigabytes(needed)} on ${device.name}, where ${gigabytes(freeBytes)} are free; ` +
        'use a smaller model or another device',
    );
  return freeBytes - needed;
}

async function allocate(device: Device, config: Qwen2Config): Promise<Map<string, Tensor>> {
  freeBesideWeights(device, config);
  const tensors = new Map<string, Tensor>();
  try {
    for (const [target, shape] of targetShapes(config)) tensors.set(target, await allocateTarget(device, shape));
  } catch (error) {
    await new Weights(tensors).dispose();
    throw error;
  }
  return tensors;
}

async function allocateTarget(device: Device, { part, rows, columns }: TargetShape): Promise<Tensor> {
  if (part === 'norm' || part === 'qkvBias') return device.tensor('f32', [rows]);
  if (part === 'embedding')
    return new Tensor(await device.allocateInBackground(rows * columns * dtypeBytes.bf16), 'bf16', [rows, columns]);
  const storage = await device.allocateInBackground(device.packedBytes(rows, columns));
  const layout = part === 'gateUp' ? 'swigluWeight' : 'linearWeight';
  return new Tensor(storage, 'bf16', [rows, columns], { layout });
}

function target(checkpoint: Checkpoint, source: SourceTensor, tensors: ReadonlyMap<string, Tensor>): WeightTarget {
  const { part, rowOffset, gateOrUp } = source;
  return { source: checkpoint.tensors.get(source.name)!, into: tensors.get(source.target)!, part, rowOffset, gateOrUp };
}

/** All faults at once, so that a damaged checkpoint is understood in one try. */
function checkTensors(checkpoint: Checkpoint, sources: readonly SourceTensor[]): void {
  const faults: string[] = [];
  const expected = new Map(sources.map((source) => [source.name, source]));
  for (const { name, shape } of sources) {
    const found = checkpoint.tensors.get(name);
    if (found === undefined) faults.push(`${name} is missing, expected [${shape}]`);
    else if (found.shape.join() !== shape.join()) faults.push(`${name} is [${found.shape}], expected [${shape}]`);
    else if (!['bf16', 'f16', 'f32'].includes(found.dtype))
      faults.push(`${name} has dtype ${found.dtype}, expected bf16, f16 or f32`);
  }
  for (const { name, shape } of checkpoint.tensors.values())
    if (!expected.has(name) && !isHarmless(name, checkpoint.config))
      faults.push(`${name} [${shape}] is not a tensor of this model`);
  if (faults.length === 0) return;
  const shown = faults.slice(0, 8).join('; ');
  const more = faults.length > 8 ? `; and ${faults.length - 8} more` : '';
  throw new Qwen2Error('invalid_checkpoint', `${checkpoint.folder} does not fit its config.json: ${shown}${more}`);
}

/** Tensors that some exporters add and no model reads: rotary buffers, and a copy of tied embeddings. */
function isHarmless(name: string, config: Qwen2Config): boolean {
  return name.endsWith('.rotary_emb.inv_freq') || (config.tieWordEmbeddings && name === 'lm_head.weight');
}

function gigabytes(bytes: number): string {
  return `${(bytes / 1e9).toFixed(2)} GB`;
}
