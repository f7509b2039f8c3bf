import type { CacheDType } from '../lib/model/kvCache.js';
import { bf16Weight, type WeightType } from '../lib/native/device.js';
import type { Operands } from './operands.js';

/** One operation at one shape. */
export interface OpCase {
  name: string;
  /** Memory that its operands take. */
  memoryBytes: number;
  /** What a call must read and write at least, each once. */
  bytes: number;
  /** Multiplications and additions of the matrix products in it. */
  operations: number;
  /** What they multiply with. Default bf16. */
  weights?: WeightType['dtype'];
  /** Makes operands, and returns what enqueues one call on them. */
  prepare(operands: Operands): () => void;
}

interface Shape {
  name: string;
  hidden: number;
  intermediate: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  vocabulary: number;
}

const shapes = {
  '0.5b': { name: '0.5b', hidden: 896, intermediate: 4864, heads: 14, kvHeads: 2, headDim: 64, vocabulary: 151936 },
  '1.5b': { name: '1.5b', hidden: 1536, intermediate: 8960, heads: 12, kvHeads: 2, headDim: 128, vocabulary: 151936 },
  '7b': { name: '7b', hidden: 3584, intermediate: 18944, heads: 28, kvHeads: 4, headDim: 128, vocabulary: 152064 },
  '72b': { name: '72b', hidden: 8192, intermediate: 29568, heads: 64, kvHeads: 8, headDim: 128, vocabulary: 152064 },
} satisfies Record<string, Shape>;

/** Files of 4-bit weights pad what is no multiple of 256. */
const quantized72b: Shape = { ...shapes['72b'], intermediate: 29696 };

const blockSize = 16;

/** Weights of layers, and of the LM head. */
const int4: WeightType = { dtype: 'int4', group: 128 };
const int8: WeightType = { dtype: 'int8', group: 128 };

/** Every case; `small` are those that a CPU is made for. */
export function opCases(size: 'small' | 'large'): OpCase[] {
  if (size === 'small')
    return [
      ...linears(shapes['0.5b'], [1, 4, 16, 64, 512]),
      ...linears(shapes['0.5b'], [1, 4, 16, 64, 512], int4, int8),
      ...linears(shapes['1.5b'], [1, 16, 512], int4, int8),
      ...others(
        shapes['0.5b'],
        [1, 512],
        [
          [1, 512],
          [8, 512],
        ],
      ),
    ];
  return [
    ...linears(shapes['72b'], [1, 16, 64, 256, 2048]),
    ...linears(quantized72b, [1, 16, 64, 256, 2048], int4, int8),
    ...linears(shapes['7b'], [1, 16, 64, 256, 2048]),
    ...linears(shapes['0.5b'], [1, 16]),
    linear('linear 8192³', 8192, 8192, 8192),
    ...others(
      shapes['72b'],
      [1, 8192],
      [
        [1, 8192],
        [1, 32768],
        [64, 1024],
        [64, 8192],
      ],
    ),
    ...others(
      shapes['7b'],
      [],
      [
        [1, 8192],
        [64, 1024],
      ],
    ),
    decode(shapes['72b'], 64, 8192, 'fp8'),
    decode(shapes['72b'], 64, 8192, 'int8'),
    prefill(shapes['72b'], 8192),
    prefill(shapes['7b'], 2048),
    prefill(shapes['0.5b'], 2048),
  ];
}

function linears(shape: Shape, tokens: number[], type = bf16Weight, headType = bf16Weight): OpCase[] {
  const { hidden, intermediate, heads, kvHeads, headDim, vocabulary } = shape;
  const kind = type.dtype === 'bf16' ? '' : `${type.dtype} `;
  const headKind = headType.dtype === 'bf16' ? '' : `${headType.dtype} `;
  return tokens.flatMap((T) => [
    linear(`${shape.name} ${kind}qkv T=${T}`, T, (heads + 2 * kvHeads) * headDim, hidden, type),
    linear(`${shape.name} ${kind}o T=${T}`, T, hidden, heads * headDim, type),
    swiglu(`${shape.name} ${kind}gate_up T=${T}`, T, intermediate, hidden, type),
    linear(`${shape.name} ${kind}down T=${T}`, T, hidden, intermediate, type),
    ...(T <= 256 ? [linear(`${shape.name} ${headKind}lm_head T=${T}`, T, vocabulary, hidden, headType, 'f32')] : []),
  ]);
}

function others(shape: Shape, normTokens: number[], contexts: [sequences: number, context: number][]): OpCase[] {
  return [
    ...normTokens.map((T) => norm(shape, T)),
    ...contexts.map(([B, context]) => decode(shape, B, context)),
    sample(shape, contexts[0]![0]),
    sample(shape, 64),
  ];
}

/** What a weight holds at least: of int4, a scale of 16 bits and a zero of 4 for each group, of int8 a scale. */
function weightBytes(elements: number, { dtype, group }: WeightType): number {
  if (dtype === 'bf16') return 2 * elements;
  return dtype === 'int8' ? elements + (2 * elements) / group : elements / 2 + (2.5 * elements) / group;
}

function linear(
  name: string,
  T: number,
  N: number,
  K: number,
  type: WeightType = bf16Weight,
  out: 'bf16' | 'f32' = 'bf16',
): OpCase {
  const bytes = weightBytes(N * K, type);
  return {
    name,
    memoryBytes: bytes + 2 * T * K + 4 * T * N,
    bytes: bytes + 2 * T * K + (out === 'f32' ? 4 : 2) * T * N,
    operations: 2 * T * N * K,
    weights: type.dtype,
    prepare(operands) {
      const args = {
        x: operands.random('bf16', [T, K]),
        weight: operands.weight('linearWeight', N, K, type),
        out: operands.empty(out, [T, N]),
        batch_invariant: 0,
      };
      if (type.dtype === 'bf16') return () => operands.stream.run('linear', args);
      const op = type.dtype === 'int4' ? 'linear_int4' : 'linear_int8';
      return () => operands.stream.run(op, { ...args, exact: 0 });
    },
  };
}

function swiglu(name: string, T: number, I: number, K: number, type: WeightType = bf16Weight): OpCase {
  const bytes = weightBytes(2 * I * K, type);
  return {
    name,
    memoryBytes: bytes + 2 * T * (K + I),
    bytes: bytes + 2 * T * (K + I),
    operations: 4 * T * I * K,
    weights: type.dtype,
    prepare(operands) {
      const args = {
        x: operands.random('bf16', [T, K]),
        weight: operands.weight('swigluWeight', 2 * I, K, type),
        out: operands.empty('bf16', [T, I]),
        batch_invariant: 0,
      };
      if (type.dtype === 'bf16') return () => operands.stream.run('swiglu', args);
      return () => operands.stream.run('swiglu_int4', { ...args, exact: 0 });
    },
  };
}

function norm({ name, hidden }: Shape, T: number): OpCase {
  return {
    name: `${name} add_rms_norm T=${T}`,
    memoryBytes: 6 * T * hidden,
    bytes: 8 * T * hidden + 4 * hidden,
    operations: 0,
    prepare(operands) {
      const args = {
        x: operands.random('bf16', [T, hidden]),
        residual: operands.random('bf16', [T, hidden]),
        weight: operands.random('f32', [hidden], 0.1, 1),
        out: operands.empty('bf16', [T, hidden]),
        eps: 1e-6,
      };
      return () => operands.stream.run('add_rms_norm', args);
    },
  };
}

/** Attention of `B` sequences with `queries` tokens each, the last of their `context`. */
function attention(
  name: string,
  shape: Shape,
  { sequences: B, queries, context }: { sequences: number; queries: number; context: number },
  cacheDtype: CacheDType = 'bf16',
): OpCase {
  const { heads, kvHeads, headDim } = shape;
  const T = B * queries;
  const blocksOfOne = Math.ceil(context / blockSize);
  // Query i of a sequence sees all keys but those behind it.
  const pairs = B * (queries * context - (queries * (queries - 1)) / 2);
  const vectorBytes = cacheDtype === 'bf16' ? 2 * headDim : headDim + 4;
  const bytes = 2 * B * context * kvHeads * vectorBytes + 4 * T * heads * headDim;
  return {
    name,
    memoryBytes: bytes,
    bytes,
    operations: 4 * pairs * heads * headDim,
    prepare(operands) {
      const blocks = B * blocksOfOne;
      const args = {
        q: operands.random('bf16', [T, heads * headDim]),
        cache: operands.cache(cacheDtype, blocks, kvHeads, headDim, blockSize),
        // Blocks of sequences lie between each other, as they do when sequences grow together.
        block_tables: operands.integers(
          [B, blocksOfOne],
          Int32Array.from({ length: blocks }, (_, i) => (i % blocksOfOne) * B + Math.floor(i / blocksOfOne)),
        ),
        query_starts: operands.integers(
          [B + 1],
          Int32Array.from({ length: B + 1 }, (_, b) => b * queries),
        ),
        context_lengths: operands.integers([B], new Int32Array(B).fill(context)),
        out: operands.empty('bf16', [T, heads * headDim]),
        cache_dtype: cacheDtype,
        num_kv_heads: kvHeads,
        head_dim: headDim,
        block_size: blockSize,
        window: 0,
        scale: headDim ** -0.5,
        batch_invariant: 0,
      };
      return () => operands.stream.run('attention', args);
    },
  };
}

const decode = (shape: Shape, sequences: number, context: number, cacheDtype: CacheDType = 'bf16') =>
  attention(
    `${shape.name} decode attention B=${sequences} context=${context}${cacheDtype === 'bf16' ? '' : ` ${cacheDtype}`}`,
    shape,
    { sequences, queries: 1, context },
    cacheDtype,
  );

const prefill = (shape: Shape, context: number) =>
  attention(`${shape.name} prefill attention ${context}`, shape, { sequences: 1, queries: context, context });

/** Temperature, top-k and top-p as Qwen2's generation_config.json has them. */
function sample({ name, vocabulary: V }: Shape, B: number): OpCase {
  return {
    name: `${name} sample B=${B}`,
    memoryBytes: 4 * B * V,
    bytes: 4 * B * V,
    operations: 0,
    prepare(operands) {
      const rows = Array.from({ length: B }, (_, b) => b);
      const args = {
        logits: operands.random('f32', [B, V], 3),
        parameters: operands.floats([B, 6], Float32Array.from(rows.flatMap(() => [0.7, 0.8, 0, 1, 0, 0]))),
        choices: operands.integers([B, 5], Int32Array.from(rows.flatMap((b) => [20, b, 0, 0, b]))),
        rows: operands.integers([B], new Int32Array(B).fill(-1)),
        tokens: operands.empty('i32', [B]),
        logprobs: operands.empty('f32', [B]),
        ranks: operands.empty('i32', [B]),
      };
      return () => operands.stream.run('sample', args);
    },
  };
}
