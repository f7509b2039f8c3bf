import { open } from 'node:fs/promises';
import { Qwen2Error } from '../native/errors.js';
import type { Int4Format, QuantizationConfig } from './quantization.js';
import { readExactly, type TensorEntry } from './safetensors.js';

/** A 4-bit matrix [rows, columns] in a checkpoint's files. */
export interface Int4Matrix {
  qweight: TensorEntry;
  qzeros: TensorEntry;
  scales: TensorEntry;
  format: Int4Format;
  /** Columns that share a scale. */
  groupSize: number;
  /** Which column of the checkpoint stands at place j when columns are sorted by group; undefined: they are. */
  order: Int32Array | undefined;
}

/** The names behind `<module>.` of the tensors that a 4-bit matrix is made of. */
const suffixes = ['qweight', 'qzeros', 'scales', 'g_idx', 'bias'] as const;

export function isInt4(tensors: ReadonlyMap<string, TensorEntry>, module: string): boolean {
  return tensors.has(`${module}.qweight`);
}

/** Names of the tensors that belong to a 4-bit matrix; those that the checkpoint need not have, too. */
export function int4TensorNames(module: string): string[] {
  return suffixes.map((suffix) => `${module}.${suffix}`);
}

/** What is wrong with a matrix's tensors, each fault in words; none if they fit. */
export function int4Faults(
  tensors: ReadonlyMap<string, TensorEntry>,
  module: string,
  [rows, columns]: readonly [number, number],
  { format, groupSize: size }: QuantizationConfig,
): string[] {
  const groupSize = size === -1 ? columns : size;
  if (rows % 8 !== 0) return [`${module} has ${rows} rows; 4-bit matrices have multiples of 8`];
  if (columns % groupSize !== 0)
    return [`${module} has ${columns} columns, which group_size ${groupSize} does not divide`];
  const groups = columns / groupSize;
  const expected: Record<string, { shape: number[]; dtype: string }> = {
    qweight: { shape: format === 'awq' ? [columns, rows / 8] : [columns / 8, rows], dtype: 'i32' },
    qzeros: { shape: [groups, rows / 8], dtype: 'i32' },
    scales: { shape: [groups, rows], dtype: 'f16' },
    g_idx: { shape: [columns], dtype: 'i32' },
  };
  return Object.entries(expected).flatMap(([suffix, { shape, dtype }]) => {
    const name = `${module}.${suffix}`;
    const found = tensors.get(name);
    if (found === undefined) return suffix === 'g_idx' ? [] : [`${name} is missing, expected ${dtype} [${shape}]`];
    if (found.dtype === dtype && found.shape.join() === shape.join()) return [];
    return [`${name} is ${found.dtype} [${found.shape}], expected ${dtype} [${shape}]`];
  });
}

/**
 * Opens a matrix whose tensors have no faults: reads the order of its columns.
 *
 * @throws invalid_checkpoint for a g_idx that is no assignment of columns to whole groups, io_error
 */
export async function openInt4Matrix(
  tensors: ReadonlyMap<string, TensorEntry>,
  module: string,
  columns: number,
  { format, groupSize: size }: QuantizationConfig,
): Promise<Int4Matrix> {
  const tensor = (suffix: string) => tensors.get(`${module}.${suffix}`);
  const groupSize = size === -1 ? columns : size;
  const groupOf = tensor('g_idx');
  const order = groupOf ? sortedByGroup(await readI32(groupOf), groupSize, groupOf.name) : undefined;
  return {
    qweight: tensor('qweight')!,
    qzeros: tensor('qzeros')!,
    scales: tensor('scales')!,
    format,
    groupSize,
    order,
  };
}

/** Columns in the order of their groups, those of a group in their own; undefined if that is how they stand. */
function sortedByGroup(groupOf: Int32Array, groupSize: number, name: string): Int32Array | undefined {
  const groups = groupOf.length / groupSize;
  const order = new Int32Array(groupOf.length);
  const filled = new Int32Array(groups);
  let sorted = true;
  for (let column = 0; column < groupOf.length; column++) {
    const group = groupOf[column]!;
    if (group < 0 || group >= groups || filled[group]! === groupSize)
      throw new Qwen2Error(
        'invalid_checkpoint',
        `${name}: column ${column} is in group ${group}; expected ${groups} groups, 0 to ${groups - 1}, of ${groupSize} columns each`,
      );
    const place = group * groupSize + filled[group]!++;
    order[place] = column;
    sorted &&= place === column;
  }
  return sorted ? undefined : order;
}

/**
 * The format of a checkpoint's zeros. Some files are labelled with the other one of GPTQ's two: where every zero must be
 * 8, what is stored tells, 7 in the first format and 8 in the second.
 */
export async function actualFormat(
  { format, symmetric }: QuantizationConfig,
  qzeros: TensorEntry,
): Promise<Int4Format> {
  if (format === 'awq' || !symmetric) return format;
  const words = await readI32(qzeros, 4096);
  if (words.every((word) => word === 0x77777777)) return 'gptq';
  if (words.every((word) => word === (0x88888888 | 0))) return 'gptq_v2';
  return format;
}

/**
 * Some exporters give every module a bias, of zeros. @throws unsupported if it is not zero
 */
export async function requireZeroBias(bias: TensorEntry): Promise<void> {
  const bytes = await readBytes(bias);
  // Of a negative zero, only the sign is set.
  if (bytes.every((byte, i) => byte === 0 || (byte === 0x80 && i % (bytes.length / bias.shape[0]!) !== 0))) return;
  throw new Qwen2Error(
    'unsupported',
    `${bias.name} has values that are not zero; in Qwen2 only q_proj, k_proj and v_proj have a bias`,
  );
}

/** The first `most` elements of a tensor. */
async function readI32(entry: TensorEntry, most = Number.POSITIVE_INFINITY): Promise<Int32Array> {
  const bytes = await readBytes(entry, Math.min(entry.byteLength, 4 * most));
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}

async function readBytes({ path, name, offset, byteLength }: TensorEntry, length = byteLength): Promise<Uint8Array> {
  try {
    const file = await open(path);
    try {
      return await readExactly(file, offset, length);
    } finally {
      await file.close();
    }
  } catch (cause) {
    throw new Qwen2Error('io_error', `${path}, tensor ${name}: ${(cause as Error).message}`, { cause });
  }
}
