import type { Qwen2Config } from '../checkpoint/config.js';
import type { Checkpoint } from '../checkpoint/folder.js';
import {
  actualFormat,
  type Int4Matrix,
  int4Faults,
  int4TensorNames,
  isInt4,
  openInt4Matrix,
  requireZeroBias,
} from '../checkpoint/int4Matrix.js';
import { bf16Weight, type Device, type WeightType } from '../native/device.js';
import { Qwen2Error } from '../native/errors.js';
import type { Layout } from '../native/tensor.js';
import { moduleOf, type Part, type SourceTensor, sourceTensors } from './names.js';

/** How the weights of a model are held, beyond what its checkpoint says. */
export interface WeightOptions {
  /** 'int4': rounds the matrices of a checkpoint in bf16, f16 or f32 to 4 bits as they are loaded, but for the LM head. */
  quantize?: 'int4' | undefined;
  /** 'int8': rounds the LM head and the embedding table to 8 bits. Default: as in the checkpoint. */
  lmHead?: 'int8' | undefined;
}

/** A tensor of the model on a device, and what it is made from. */
export interface Target {
  part: Part;
  rows: number;
  columns: number;
  /** 'vector': f32[rows]. 'table': bf16[rows, columns]. Else the weight of an operation. */
  layout: 'vector' | 'table' | Exclude<Layout, 'strided'>;
  type: WeightType;
  /** Of int4 with columns sorted by group: which of the checkpoint's columns is column j. */
  order: Int32Array | undefined;
  sources: TargetSource[];
}

/** A tensor, or 4-bit matrix, of the checkpoint within a target. */
export interface TargetSource extends SourceTensor {
  matrix: Int4Matrix | undefined;
}

/** Which tensors a model has on a device, of what types: what loading, memory planning and the decoder go by. */
export class WeightPlan {
  readonly config: Qwen2Config;
  readonly targets: ReadonlyMap<string, Target>;

  constructor(config: Qwen2Config, sources: readonly TargetSource[], options: WeightOptions) {
    this.config = config;
    this.targets = arrange(sources, options);
  }

  /** Bytes that the weights take on a device. */
  bytesOn(device: Device): number {
    let bytes = 0;
    for (const target of this.targets.values()) bytes += targetBytes(device, target);
    return bytes;
  }

  /** Bytes that a decode step reads of the weights: all but an embedding table of its own, of which it reads a row. */
  decodeBytesOn(device: Device): number {
    const table = this.targets.get('embedding');
    return this.bytesOn(device) - (table ? targetBytes(device, table) : 0);
  }

  /** Whether activations must be brought into the order of a weight's columns. */
  get permutesColumns(): boolean {
    return [...this.targets.values()].some(({ order }) => order !== undefined);
  }

  /** Whether some layer has gate and up as weights of their own. */
  get splitsGateUp(): boolean {
    return [...this.targets.values()].some(({ part, layout }) => part === 'gateUp' && layout === 'linearWeight');
  }
}

/** The plan for random weights. */
export function planRandomWeights(config: Qwen2Config, options: WeightOptions = {}): WeightPlan {
  const sources = sourceTensors(config).map((source) => ({ ...source, matrix: undefined }));
  return new WeightPlan(config, sources, options);
}

/**
 * The plan for a checkpoint, after a look at all of its tensors' shapes, and at the columns' order of its 4-bit ones.
 *
 * @throws invalid_checkpoint naming every missing, extra or mis-shaped tensor; unsupported; invalid_argument for a
 *   quantization of what is quantized; io_error
 */
export async function planWeights(checkpoint: Checkpoint, options: WeightOptions = {}): Promise<WeightPlan> {
  const { config, tensors } = checkpoint;
  const sources = sourceTensors(config);
  checkTensors(checkpoint, sources);
  const quantized = sources.filter((source) => isInt4Matrix(source, checkpoint));
  if (quantized.length > 0 && options.quantize !== undefined)
    throw new Qwen2Error('invalid_argument', `${checkpoint.folder} has 4-bit weights already; leave out quantize`);
  const matrices = new Map<SourceTensor, Int4Matrix>();
  if (quantized.length > 0) {
    const format = await actualFormat(config.quantization!, tensors.get(`${moduleOf(quantized[0]!)}.qzeros`)!);
    for (let i = 0; i < quantized.length; i += readers)
      await Promise.all(
        quantized.slice(i, i + readers).map(async (source) => {
          const bias = tensors.get(`${moduleOf(source)}.bias`);
          if (bias !== undefined && source.part !== 'qkv') await requireZeroBias(bias);
          const quantization = { ...config.quantization!, format };
          matrices.set(source, await openInt4Matrix(tensors, moduleOf(source), source.shape[1]!, quantization));
        }),
      );
  }
  return new WeightPlan(
    config,
    sources.map((source) => ({ ...source, matrix: matrices.get(source) })),
    options,
  );
}

function isInt4Matrix(source: SourceTensor, { config, tensors }: Pick<Checkpoint, 'config' | 'tensors'>): boolean {
  return config.quantization !== undefined && source.shape.length === 2 && isInt4(tensors, moduleOf(source));
}

/** Matrices that are looked at at the same time. */
const readers = 8;

function arrange(sources: readonly TargetSource[], options: WeightOptions): Map<string, Target> {
  const byTarget = new Map<string, TargetSource[]>();
  for (const source of sources) byTarget.set(source.target, [...(byTarget.get(source.target) ?? []), source]);
  const targets = new Map<string, Target>();
  for (const [key, together] of byTarget) {
    const types = together.map((source) => typeOf(source, options));
    if (together.every((source, i) => goTogether(types[0]!, together[0]!, types[i]!, source)))
      targets.set(key, targetOf(together, types[0]!, together[0]!.part === 'gateUp' ? 'swigluWeight' : 'linearWeight'));
    else
      for (const [i, source] of together.entries())
        targets.set(source.ownTarget, targetOf([{ ...source, rowOffset: 0 }], types[i]!, 'linearWeight'));
  }
  return targets;
}

/** Whether two matrices can be one weight: of one type, with columns in one order. */
function goTogether(typeA: WeightType, a: TargetSource, typeB: WeightType, b: TargetSource): boolean {
  const [orderA, orderB] = [a.matrix?.order, b.matrix?.order];
  if (typeA.dtype !== typeB.dtype || typeA.group !== typeB.group || (orderA === undefined) !== (orderB === undefined))
    return false;
  return orderA === undefined || Buffer.from(orderA.buffer).equals(Buffer.from(orderB!.buffer));
}

function targetOf(sources: TargetSource[], type: WeightType, weightLayout: 'linearWeight' | 'swigluWeight'): Target {
  const { part, shape, matrix } = sources[0]!;
  const rows = sources.reduce((sum, source) => sum + source.shape[0]!, 0);
  const columns = shape[1] ?? 1;
  const plainTable = part === 'embedding' && type.dtype === 'bf16';
  const layout = part === 'norm' || part === 'qkvBias' ? 'vector' : plainTable ? 'table' : weightLayout;
  return { part, rows, columns, layout, type, order: matrix?.order, sources };
}

function typeOf(source: TargetSource, { quantize, lmHead }: WeightOptions): WeightType {
  const { part, matrix } = source;
  if (part === 'norm' || part === 'qkvBias') return bf16Weight;
  if (matrix !== undefined) return { dtype: 'int4', group: groupOf(source, matrix.groupSize) };
  if (part === 'lmHead' || part === 'embedding')
    return lmHead === 'int8' ? { dtype: 'int8', group: groupOf(source) } : bf16Weight;
  if (quantize === undefined) return bf16Weight;
  if (source.shape[0]! % 8 !== 0)
    throw new Qwen2Error('unsupported', `${source.name} has ${source.shape[0]} rows; int4 takes multiples of 8`);
  return { dtype: 'int4', group: groupOf(source) };
}

/** The largest group of a device's weights that cuts the columns, and the checkpoint's groups, evenly. */
function groupOf({ name, shape }: SourceTensor, size = shape[1]!): number {
  const group = [128, 64, 32].find((columns) => size % columns === 0);
  if (group !== undefined) return group;
  throw new Qwen2Error('unsupported', `${name} has ${size} columns; int4 and int8 take multiples of 32`);
}

function targetBytes(device: Device, { layout, rows, columns, type, order }: Target): number {
  if (layout === 'vector') return rows * 4;
  if (layout === 'table') return rows * columns * 2;
  return device.packedBytes(rows, columns, type) + (order?.byteLength ?? 0);
}

/** All faults at once, so that a damaged checkpoint is understood in one try. */
function checkTensors({ folder, config, tensors }: Checkpoint, sources: readonly SourceTensor[]): void {
  const faults: string[] = [];
  const expected = new Set<string>();
  for (const source of sources) {
    const { name, shape } = source;
    if (isInt4Matrix(source, { config, tensors })) {
      faults.push(...int4Faults(tensors, moduleOf(source), shape as [number, number], config.quantization!));
      for (const part of int4TensorNames(moduleOf(source))) expected.add(part);
      continue;
    }
    expected.add(name);
    const found = tensors.get(name);
    if (found === undefined) faults.push(`${name} is missing, expected [${shape}]`);
    else if (found.shape.join() !== shape.join()) faults.push(`${name} is [${found.shape}], expected [${shape}]`);
    else if (!['bf16', 'f16', 'f32'].includes(found.dtype))
      faults.push(`${name} has dtype ${found.dtype}, expected bf16, f16 or f32`);
  }
  for (const { name, shape } of tensors.values())
    if (!expected.has(name) && !isHarmless(name, config))
      faults.push(`${name} [${shape}] is not a tensor of this model`);
  if (faults.length === 0) return;
  const shown = faults.slice(0, 8).join('; ');
  const more = faults.length > 8 ? `; and ${faults.length - 8} more` : '';
  throw new Qwen2Error('invalid_checkpoint', `${folder} does not fit its config.json: ${shown}${more}`);
}

/** Tensors that some exporters add and no model reads: rotary buffers, and a copy of tied embeddings. */
function isHarmless(name: string, config: Qwen2Config): boolean {
  return name.endsWith('.rotary_emb.inv_freq') || (config.tieWordEmbeddings && name === 'lm_head.weight');
}
