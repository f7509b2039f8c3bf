import { Tensor } from '../../lib/native/tensor.js';
import { describeContract } from '../support/contract.js';
import { int4Weight, randomInt4 } from '../support/int4Formats.js';
import { uniforms } from '../support/uniforms.js';

const anyMatrix = randomInt4(8, 64, 2, 1);

describeContract({
  op: 'linear_int4',
  valid: (bench) => ({
    x: bench.from('bf16', [3, 64], uniforms(192, 1)),
    weight: int4Weight(bench, 32, [{ format: 'awq', matrix: anyMatrix }]),
    bias: bench.from('f32', [8], uniforms(8, 2)),
    out: bench.empty('bf16', [3, 8]),
    exact: 1,
    batch_invariant: 0,
  }),
  violations: [
    {
      title: 'a weight of another K',
      change: (bench) => ({ weight: bench.weight('linearWeight', 8, 96, { dtype: 'int4', group: 32 }) }),
      says: /weight must be \[N=8, K=64\]: K is set by x; got linear_int4\(x bf16\[3, 64\], weight int4\[8, 96\] in groups of 32 packed, bias f32\[8\]/,
    },
    {
      title: 'the weight of linear',
      change: (bench) => ({ weight: bench.weight('linearWeight', 8, 64) }),
      says: /weight must be int4/,
    },
    {
      title: 'the weight of linear_int8',
      change: (bench) => ({ weight: bench.weight('linearWeight', 8, 64, { dtype: 'int8', group: 32 }) }),
      says: /weight must be int4/,
    },
    {
      title: 'the weight of swiglu_int4',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 8, 64, { dtype: 'int4', group: 32 }) }),
      says: /weight must be a weight packed for this operation/,
    },
    {
      title: 'columns that are not a multiple of the group',
      change: (_, { weight: { storage } }) => ({
        weight: new Tensor(storage, 'int4', [8, 64], { layout: 'linearWeight', group: 128 }),
      }),
      says: /weight must have columns that are a multiple of its group of 128/,
    },
    {
      title: 'groups of 48',
      change: (_, { weight: { storage } }) => ({
        weight: new Tensor(storage, 'int4', [8, 64], { layout: 'linearWeight', group: 48 }),
      }),
      says: /weight is int4 with groups of 48; packed int4 and int8 have groups of 32, 64 or 128/,
    },
    {
      title: 'groups of an x of bf16',
      change: (_, { x: { storage } }) => ({ x: new Tensor(storage, 'bf16', [3, 64], { group: 32 }) }),
      says: /x is bf16 with groups of 32; packed int4 and int8 have groups of 32, 64 or 128, others none/,
    },
    { title: 'exact of 2', change: () => ({ exact: 2 }), says: /exact must be 0 or 1/ },
    {
      title: 'batch_invariant of −1',
      change: () => ({ batch_invariant: -1 }),
      says: /batch_invariant must be 0 or 1/,
    },
    { title: 'a bias of bf16', change: (bench) => ({ bias: bench.empty('bf16', [8]) }), says: /bias must be f32/ },
    {
      title: 'a bf16 out of an f32 x',
      change: (bench) => ({ x: bench.empty('f32', [3, 64]) }),
      says: /x and out must have the same dtype, they have f32 and bf16/,
    },
    {
      title: 'out that overlaps x',
      change: (bench) => {
        const both = bench.empty('bf16', [3, 71]);
        return { x: both.narrow(1, 0, 64), out: both.narrow(1, 63, 8) };
      },
      says: /out must not overlap x/,
    },
  ],
});
