import type { Checkpoint } from '../checkpoint/folder.js';
import type { TensorEntry } from '../checkpoint/safetensors.js';
import { moduleOf, type SourceTensor, sourceTensors } from '../model/names.js';
import { Qwen2Error } from '../native/errors.js';
import { type FileTensor, fileBytes } from './shardFile.js';

/** Columns of a 4-bit matrix that share a scale. */
export type GroupSize = 32 | 64 | 128;
export const groupSizes: readonly GroupSize[] = [128, 64, 32];

/** Rows that one 32-bit word of AWQ holds. */
export const wordRows = 8;

/** A tensor of the checkpoint, and the tensors that are written for it: one of f16, or AWQ's three. */
export interface ShardSource extends SourceTensor {
  entry: TensorEntry;
  outputs: { plain: FileTensor } | { qweight: FileTensor; qzeros: FileTensor; scales: FileTensor };
}

/** A file of the output. */
export interface Shard {
  fileName: string;
  /** The layer whose tensors it holds; undefined for the embeddings, and for what follows the layers. */
  layer: number | undefined;
  sources: ShardSource[];
  /** In the order of the file. */
  tensors: FileTensor[];
  /** Of the whole file. */
  bytes: number;
}

/**
 * The files of a quantized checkpoint: the embeddings, the layers, one each, and what follows them.
 *
 * @throws invalid_argument or unsupported for matrices that AWQ's words and groups can't hold
 */
export function planShards({ config, tensors }: Checkpoint, groupSize: GroupSize): Shard[] {
  const all = sourceTensors(config);
  requireDivisible(all.filter(isRounded), groupSize);
  const shards = new Map<string, ShardSource[]>();
  for (const source of all) {
    const layer = layerOf(source);
    const key = layer !== undefined ? `layer ${layer}` : source.name.startsWith('model.embed') ? 'embeddings' : 'head';
    const planned = { ...source, entry: tensors.get(source.name)!, outputs: outputsOf(source, groupSize) };
    shards.set(key, [...(shards.get(key) ?? []), planned]);
  }
  const number = (n: number) => String(n).padStart(5, '0');
  return [...shards.values()].map((sources, i) => {
    const fileName = `model-${number(i + 1)}-of-${number(shards.size)}.safetensors`;
    // Words first, as the format's own library sorts by size of element: then every tensor is aligned to its own.
    const outputs = sources.flatMap((source): FileTensor[] => Object.values(source.outputs));
    const written = [
      ...outputs.filter(({ dtype }) => dtype === 'I32'),
      ...outputs.filter(({ dtype }) => dtype !== 'I32'),
    ];
    return { fileName, layer: layerOf(sources[0]!), sources, tensors: written, bytes: fileBytes(written) };
  });
}

/** Whether a tensor becomes 4-bit: the matrices of the layers. */
export function isRounded({ part, shape }: SourceTensor): boolean {
  return shape.length === 2 && part !== 'embedding' && part !== 'lmHead';
}

function layerOf({ name }: SourceTensor): number | undefined {
  const found = /^model\.layers\.(\d+)\./.exec(name);
  return found ? Number(found[1]) : undefined;
}

function outputsOf(source: SourceTensor, groupSize: GroupSize): ShardSource['outputs'] {
  const { name, shape } = source;
  if (!isRounded(source)) return { plain: { name, dtype: 'F16', shape } };
  const [N, K] = shape as [number, number];
  const tensor = (suffix: string, dtype: FileTensor['dtype'], rows: number, columns: number): FileTensor => ({
    name: `${moduleOf(source)}.${suffix}`,
    dtype,
    shape: [rows, columns],
  });
  return {
    qweight: tensor('qweight', 'I32', K, N / wordRows),
    qzeros: tensor('qzeros', 'I32', K / groupSize, N / wordRows),
    scales: tensor('scales', 'F16', K / groupSize, N),
  };
}

function requireDivisible(matrices: readonly SourceTensor[], groupSize: GroupSize): void {
  const ragged = matrices.find(({ shape }) => shape[0]! % wordRows !== 0);
  if (ragged !== undefined)
    throw new Qwen2Error(
      'unsupported',
      `${ragged.name} has ${ragged.shape[0]} rows; AWQ packs ${wordRows} rows into a word, so there must be a multiple of that`,
    );
  const uneven = matrices.find(({ shape }) => shape[1]! % groupSize !== 0);
  if (uneven === undefined) return;
  const fitting = groupSizes.filter((size) => matrices.every(({ shape }) => shape[1]! % size === 0));
  const what = `${uneven.name} has ${uneven.shape[1]} columns, which groupSize ${groupSize} does not divide`;
  if (fitting.length > 0)
    throw new Qwen2Error('invalid_argument', `${what}; groupSize ${fitting.join(' or ')} would do`);
  throw new Qwen2Error(
    'unsupported',
    `${what}, and of this model's matrices no groupSize of ${groupSizes.join(', ')} divides all`,
  );
}
