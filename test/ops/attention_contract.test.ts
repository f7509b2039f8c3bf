import assert from 'node:assert/strict';
import { Tensor } from '../../lib/native/tensor.js';
import { prepareAttention, randomSequence } from '../support/attentionCall.js';
import type { AttentionShape } from '../support/attentionModel.js';
import { describeContract } from '../support/contract.js';
import { devicesUnderTest, type OpBench, reference, requireDevice, withBench } from '../support/opBench.js';

const shape: AttentionShape = { heads: 4, kvHeads: 2, headDim: 6, blockSize: 16, window: 0, scale: 0.4 };

/** Two sequences: 20 keys and 3 queries, 5 keys and 1 query. */
const example = (bench: OpBench) =>
  prepareAttention(bench, 'bf16', shape, [
    randomSequence(shape, 'bf16', { context: 20, queries: 3 }, 1),
    randomSequence(shape, 'bf16', { context: 5, queries: 1 }, 2),
  ]);

const i32 = (bench: OpBench, ...values: number[]) => bench.from('i32', [values.length], values);
const largest = 2 ** 31 - 1;

type Change = (bench: OpBench) => Partial<ReturnType<typeof example>>;

/** What only the stream can find, since it stands in device memory. */
const dataErrors: { title: string; change: Change; says: RegExp }[] = [
  ...[
    [1, 3, 4],
    [0, 3, 5],
    [0, 3, 3],
    [-1, 3, 4],
  ].map((starts) => ({
    title: `query_starts ${starts.join(', ')} of 4 tokens`,
    change: (bench: OpBench) => ({ query_starts: i32(bench, ...starts) }),
    says: new RegExp(`query_starts must go from 0 to T = 4, they go from ${starts[0]} to ${starts[2]}`),
  })),
  {
    title: 'query_starts that fall',
    change: (bench) => ({ query_starts: i32(bench, 0, 5, 4) }),
    says: /query_starts falls at row 1/,
  },
  {
    title: 'query_starts that fall by more than 32 bits hold, beside padding',
    change: (bench) => ({
      query_starts: i32(bench, 0, largest, -2, 4),
      context_lengths: i32(bench, 0, 0, 0),
      block_tables: bench.from('i32', [3, 2], [0, 1, 0, 1, 0, 1]),
    }),
    says: /query_starts falls at row 1/,
  },
  {
    title: 'a context shorter than its queries',
    change: (bench) => ({ context_lengths: i32(bench, 2, 5) }),
    says: /context_lengths\[0\] = 2 is less than its 3 queries/,
  },
  {
    title: 'a negative context',
    change: (bench) => ({ context_lengths: i32(bench, 20, -1) }),
    says: /context_lengths\[1\] = -1 is less than its 1 queries/,
  },
  {
    title: 'a context beyond the block table',
    change: (bench) => ({ context_lengths: i32(bench, 20, largest) }),
    says: /context_lengths\[1\] = 2147483647 needs 134217728 blocks, block_tables has room for 4/,
  },
  ...[6, -1, largest, -largest - 1].map((block) => ({
    title: `block ${block} of 6 in use`,
    change: (bench: OpBench) => ({ block_tables: bench.from('i32', [2, 2], [0, block, 1, 0]) }),
    says: new RegExp(`block_tables\\[0, 1\\] = ${block} is outside the cache of 6 blocks`),
  })),
];

for (const device of [reference, ...devicesUnderTest])
  describe(`attention on ${device.title} reports`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const { title, change, says } of dataErrors)
      it(title, () =>
        withBench(device, async (bench) => {
          const args = example(bench);
          bench.run('attention', { ...args, ...change(bench) });
          await assert.rejects(bench.stream.synchronized(), (error: Error & { code?: string }) => {
            assert.equal(error.code, 'invalid_argument');
            assert.match(error.message, says);
            assert.match(error.message, /; in attention\(q bf16\[4, 24\]/);
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
      says: /cache must be \[blocks=6, kv_block_bytes=\d+\]: kv_block_bytes is set by heads, head_dim and block_size/,
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
