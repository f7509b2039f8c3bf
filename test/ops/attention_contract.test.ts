import assert from 'node:assert/strict';
import { Tensor } from '../../lib/native/tensor.js';
import { prepareAttention, randomSequence } from '../support/attentionCall.js';
import type { AttentionShape } from '../support/attentionModel.js';
import { describeContract } from '../support/contract.js';
import { devicesUnderTest, isCuda, type OpBench, reference, requireDevice, withBench } from '../support/opBench.js';

const shape: AttentionShape = { heads: 4, kvHeads: 2, headDim: 6, blockSize: 16, window: 0, scale: 0.4 };
/** That every device has kernels for. */
const commonShape: AttentionShape = { ...shape, headDim: 64, scale: 0.1 };

/** Two sequences: so many queries with 17 keys before them, and 5 keys with 1 query. */
const step = (bench: OpBench, shape: AttentionShape, queries: number) =>
  prepareAttention(bench, 'bf16', shape, [
    randomSequence(shape, 'bf16', { context: queries + 17, queries }, 1),
    randomSequence(shape, 'bf16', { context: 5, queries: 1 }, 2),
  ]);

const example = (bench: OpBench) => step(bench, shape, 3);

const i32 = (bench: OpBench, ...values: number[]) => bench.from('i32', [values.length], values);
const largest = 2 ** 31 - 1;

interface DataError {
  title: string;
  change: (bench: OpBench) => Partial<ReturnType<typeof example>>;
  says: string;
}

/** What only the stream can find in a step of `n` queries and one more, since it stands in device memory. */
const dataErrors = (n: number): DataError[] => {
  const T = n + 1;
  const context = n + 17;
  const used = Math.ceil(context / shape.blockSize);
  const blocks = used + 4;
  return [
    ...[
      [1, n, T],
      [0, n, T + 1],
      [0, n, n],
      [-1, n, T],
    ].map((starts) => ({
      title: `query_starts ${starts.join(', ')} of ${T} tokens`,
      change: (bench: OpBench) => ({ query_starts: i32(bench, ...starts) }),
      says: `query_starts must go from 0 to T = ${T}, they go from ${starts[0]} to ${starts[2]}`,
    })),
    {
      title: 'query_starts that fall',
      change: (bench) => ({ query_starts: i32(bench, 0, T + 1, T) }),
      says: 'query_starts falls at row 1',
    },
    {
      title: 'query_starts that fall by more than 32 bits hold, beside padding',
      change: (bench) => ({
        query_starts: i32(bench, 0, largest, -2, T),
        context_lengths: i32(bench, 0, 0, 0),
        block_tables: bench.from('i32', [3, 2], [0, 1, 0, 1, 0, 1]),
      }),
      says: 'query_starts falls at row 1',
    },
    {
      title: 'a context shorter than its queries',
      change: (bench) => ({ context_lengths: i32(bench, n - 1, 5) }),
      says: `context_lengths[0] = ${n - 1} is less than its ${n} queries`,
    },
    {
      title: 'a negative context',
      change: (bench) => ({ context_lengths: i32(bench, context, -1) }),
      says: 'context_lengths[1] = -1 is less than its 1 queries',
    },
    {
      title: 'a context beyond the block table',
      change: (bench) => ({ context_lengths: i32(bench, context, largest) }),
      says: `context_lengths[1] = 2147483647 needs 134217728 blocks, block_tables has room for ${used + 2}`,
    },
    ...[blocks, -1, largest, -largest - 1].map((block) => ({
      title: `block ${block} of ${blocks} in use`,
      change: (bench: OpBench) => {
        const table = Array.from({ length: used }, (_, i) => (i === 1 ? block : 0));
        return { block_tables: bench.from('i32', [2, used], [...table, ...table.fill(0)]) };
      },
      says: `block_tables[0, 1] = ${block} is outside the cache of ${blocks} blocks`,
    })),
  ];
};

// A device may take a step of few queries and one of many in different ways. A GPU's kernels run later than the call.
for (const device of [reference, ...devicesUnderTest])
  for (const [queries, batch_invariant] of [
    [3, 0],
    [40, 0],
    ...(isCuda(device) ? [[3, 1] as const, [40, 1] as const] : []),
  ] as const)
    describe(`attention on ${device.title} reports, of ${queries} queries, batch_invariant ${batch_invariant}`, () => {
      before(function () {
        requireDevice(this, device);
      });

      for (const { title, change, says } of dataErrors(queries))
        it(title, () =>
          withBench(device, async (bench) => {
            const args = { ...step(bench, commonShape, queries), batch_invariant };
            bench.run('attention', { ...args, ...change(bench) });
            await assert.rejects(bench.stream.synchronized(), (error: Error & { code?: string }) => {
              assert.equal(error.code, 'invalid_argument');
              const call = isCuda(device) ? '' : `; in attention(q bf16[${queries + 1}, 256]`;
              assert.equal(error.message.slice(0, says.length + call.length), says + call);
              return true;
            });
            bench.run('attention', args);
            assert.ok((await bench.read(args.out)).every(Number.isFinite));
          }),
        );
    });

describeContract({
  op: 'attention',
  valid: example,
  free: ['cache.0', 'block_tables.1'],
  violations: [
    {
      title: 'a cache of blocks of another size',
      change: (bench) => ({ cache: bench.empty('u8', [6, 64]) }),
      says: /cache must be \[blocks=6, kv_block_bytes=\d+\]: kv_block_bytes is set by cache_dtype, heads, head_dim and block_size/,
    },
    ...(['f32', 'u8', 'int4'] as const).map((cache_dtype) => ({
      title: `a cache of ${cache_dtype}`,
      change: () => ({ cache_dtype }),
      says: /cache_dtype must be fp8, int8, or bf16 as the activations/,
    })),
    {
      title: 'a cache of 8 bits for heads that are no multiple of 16',
      change: () => ({ cache_dtype: 'fp8' as const }),
      says: /head_dim must be a multiple of 16 for a cache of fp8/,
    },
    ...[0, -16, 8, 17, 4112].map((block_size) => ({
      title: `a block size of ${block_size}`,
      change: () => ({ block_size }),
      says: /block_size must be a multiple of 16, at most 4096/,
    })),
    ...[0, -6, 3, 258].map((head_dim) => ({
      title: `a head_dim of ${head_dim}`,
      change: () => ({ head_dim }),
      says: /head_dim must be even, at most 256/,
    })),
    { title: 'no KV heads', change: () => ({ num_kv_heads: 0 }), says: /num_kv_heads must be positive/ },
    {
      title: 'query heads that are no multiple of the KV heads',
      change: (bench) => ({ q: bench.empty('bf16', [4, 18]), out: bench.empty('bf16', [4, 18]) }),
      says: /the columns of q must be whole query heads, a multiple of num_kv_heads of them/,
    },
    { title: 'batch_invariant of 2', change: () => ({ batch_invariant: 2 }), says: /batch_invariant must be 0 or 1/ },
    { title: 'a negative window', change: () => ({ window: -1 }), says: /window must be 0 \(none\) or/ },
    ...[0, -1, Number.NaN].map((scale) => ({
      title: `a scale of ${scale}`,
      change: () => ({ scale }),
      says: /scale must be positive/,
    })),
    {
      title: 'out of another dtype than q',
      change: (bench) => ({ out: bench.empty('f32', [4, 24]) }),
      says: /q and out must have the same dtype, they have bf16 and f32/,
    },
    {
      title: 'out in q',
      change: (_, { q }) => ({ out: q }),
      says: /out must not overlap q/,
    },
    {
      title: 'out in the cache that it reads',
      change: (_, { cache }) => ({ out: new Tensor(cache.storage, 'bf16', [4, 24], { byteOffset: 64 }) }),
      says: /out must not overlap cache/,
    },
    {
      title: 'as many query_starts as sequences',
      change: (bench) => ({ query_starts: bench.empty('i32', [2]) }),
      says: /query_starts must have one entry more than context_lengths/,
    },
  ],
});
