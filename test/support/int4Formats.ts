/**
 * The 4-bit matrices of checkpoints, written and read as their formats are described, apart from the code under test. Nibble
 * i of a word is bits 4·i to 4·i + 3.
 *
 *   AWQ      qweight [K, N/8], qzeros [G, N/8]: a word holds columns 0, 2, 4, 6, 1, 3, 5, 7 of eight neighbours along N
 *   GPTQ     qweight [K/8, N]: a word holds eight neighbours along K in order; qzeros [G, N/8]: eight along N in order,
 *            each zero less one
 *   GPTQ v2  the same, with zeros as they are
 *
 * Scales are f16 [G, N] in all of them.
 */
import type { Tensor } from '../../lib/native/tensor.js';
import { fromF16 } from './f16.js';
import type { OpBench } from './opBench.js';
import { Random } from './random.js';

/** With the number that operations take as `format`. */
export const int4Formats = { awq: 0, gptq: 1, gptqV2: 2 } as const;
export type Int4Format = keyof typeof int4Formats;
export const everyInt4Format = Object.keys(int4Formats) as Int4Format[];

/** scale[n, g] · (q[n, k] − zero[n, g]), with G groups of K / G columns. */
export interface Int4Matrix {
  N: number;
  K: number;
  G: number;
  q: Uint8Array;
  zeros: Uint8Array;
  /** Bits of f16. */
  scales: Uint16Array;
}

/** A matrix as a checkpoint holds it. */
export interface Int4Words {
  qweight: Int32Array;
  qzeros: Int32Array;
  scales: Uint16Array;
}

/** Which of eight neighbours nibble i holds. */
const neighbours: Record<Int4Format, readonly number[]> = {
  awq: [0, 2, 4, 6, 1, 3, 5, 7],
  gptq: [0, 1, 2, 3, 4, 5, 6, 7],
  gptqV2: [0, 1, 2, 3, 4, 5, 6, 7],
};

/** What is added to a zero when it is written. */
const zeroOffset: Record<Int4Format, number> = { awq: 0, gptq: -1, gptqV2: 0 };

/**
 * The words of a matrix. With `columns`, its column j is written as column columns[j] of the checkpoint, and its groups are
 * those of its own order.
 */
export function toWords(format: Int4Format, matrix: Int4Matrix, columns?: readonly number[]): Int4Words {
  const { N, K, G, q, zeros, scales } = matrix;
  const order = neighbours[format];
  const word = (nibble: (neighbour: number) => number) =>
    order.reduce((bits, neighbour, i) => bits | (requireNibble(nibble(neighbour)) << (4 * i)), 0);
  const inCheckpoint = new Uint8Array(N * K);
  for (let n = 0; n < N; n++) for (let k = 0; k < K; k++) inCheckpoint[n * K + (columns?.[k] ?? k)] = q[n * K + k]!;
  return {
    qweight:
      format === 'awq'
        ? table(K, N / 8, (k, j) => word((i) => inCheckpoint[(8 * j + i) * K + k]!))
        : table(K / 8, N, (j, n) => word((i) => inCheckpoint[n * K + 8 * j + i]!)),
    qzeros: table(G, N / 8, (g, j) => word((i) => zeros[(8 * j + i) * G + g]! + zeroOffset[format])),
    scales: Uint16Array.from(table(G, N, (g, n) => scales[n * G + g]!)),
  };
}

/** The matrix [N, K] of G groups that words hold, its columns in the checkpoint's order. */
export function fromWords(format: Int4Format, words: Int4Words, N: number, K: number, G: number): Int4Matrix {
  const order = neighbours[format];
  const nibble = (word: number, neighbour: number) => (word >>> (4 * order.indexOf(neighbour))) & 15;
  const q = table(N, K, (n, k) =>
    format === 'awq'
      ? nibble(words.qweight[k * (N / 8) + (n >> 3)]!, n & 7)
      : nibble(words.qweight[(k >> 3) * N + n]!, k & 7),
  );
  const zeros = table(N, G, (n, g) => nibble(words.qzeros[g * (N / 8) + (n >> 3)]!, n & 7) - zeroOffset[format]);
  const scales = table(N, G, (n, g) => words.scales[g * N + n]!);
  return { N, K, G, q: Uint8Array.from(q), zeros: Uint8Array.from(zeros), scales: Uint16Array.from(scales) };
}

function table(rows: number, columns: number, value: (row: number, column: number) => number): Int32Array {
  const values = new Int32Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) values[i * columns + j] = value(i, j);
  return values;
}

function requireNibble(value: number): number {
  if (!(value >= 0 && value <= 15)) throw new Error(`${value} does not fit into 4 bits`);
  return value;
}

/** What differs from numbers drawn at random, by row, and by column or group. */
export interface Int4Values {
  q?: (n: number, k: number) => number;
  zero?: (n: number, g: number) => number;
  /** Bits of f16. */
  scale?: (n: number, g: number) => number;
}

/** A random matrix: any q, zeros that every format has, scales from 2⁻⁸ to 2⁻⁵. */
export function randomInt4(N: number, K: number, G: number, seed: number, values: Int4Values = {}): Int4Matrix {
  const random = new Random(seed);
  const q = values.q ?? (() => random.integer(0, 15));
  const zero = values.zero ?? (() => random.integer(1, 15));
  const scale = values.scale ?? (() => random.integer(0x1c00, 0x2800));
  return {
    ...{ N, K, G },
    q: Uint8Array.from(table(N, K, q)),
    zeros: Uint8Array.from(table(N, G, zero)),
    scales: Uint16Array.from(table(N, G, scale)),
  };
}

/** The numbers that matrices one below another stand for, and |scale| · (q + zero), which rounding errors are proportional to. */
export function dequantized(matrices: readonly Int4Matrix[]) {
  const size = matrices.reduce((sum, { q }) => sum + q.length, 0);
  const [weight, magnitude] = [new Float64Array(size), new Float64Array(size)];
  let at = 0;
  for (const { N, K, G, q, zeros, scales } of matrices)
    for (let n = 0; n < N; n++)
      for (let k = 0; k < K; k++) {
        const group = n * G + Math.floor((k * G) / K);
        const [scale, zero] = [fromF16(scales[group]!), zeros[group]!];
        weight[at] = scale * (q[n * K + k]! - zero);
        magnitude[at++] = Math.abs(scale) * (q[n * K + k]! + zero);
      }
  return { weight, magnitude };
}

/** What the pack operations are given of a checkpoint. */
export interface Int4Source {
  qweight: Tensor;
  qzeros: Tensor;
  scales: Tensor;
  columns: Tensor | undefined;
  format: number;
}

/** The tensors of a matrix in a format, `gap` elements apart beyond the length of their rows. */
export function int4Source(
  bench: OpBench,
  format: Int4Format,
  matrix: Int4Matrix,
  { columns, gap = 0 }: { columns?: readonly number[] | undefined; gap?: number | undefined } = {},
): Int4Source {
  const { N, K, G } = matrix;
  const words = toWords(format, matrix, columns);
  const [rows, width] = format === 'awq' ? [K, N / 8] : [K / 8, N];
  return {
    qweight: bench.from('i32', [rows, width], words.qweight, width + gap),
    qzeros: bench.from('i32', [G, N / 8], words.qzeros, N / 8 + gap),
    scales: bench.from('f16', [G, N], words.scales, N + gap),
    columns: columns && bench.from('i32', [K], columns),
    format: int4Formats[format],
  };
}

/** A weight of int4 for `linear_int4`, of matrices one below another, each in a format of its own or in the same. */
export function int4Weight(
  bench: OpBench,
  group: number,
  parts: readonly { format: Int4Format; matrix: Int4Matrix; columns?: readonly number[] | undefined }[],
): Tensor {
  const N = parts.reduce((sum, { matrix }) => sum + matrix.N, 0);
  const weight = bench.weight('linearWeight', N, parts[0]!.matrix.K, { dtype: 'int4', group });
  let row_offset = 0;
  for (const { format, matrix, columns } of parts) {
    bench.run('linear_int4_pack', { ...int4Source(bench, format, matrix, { columns }), weight, row_offset });
    row_offset += matrix.N;
  }
  return weight;
}
