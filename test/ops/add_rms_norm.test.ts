import { assertClose, assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import {
  activationsOf,
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { rmsNorm } from '../support/opModels.js';
import { type Activation, afterRounding, heldAs, once, sumError } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  T: number;
  H: number;
  /** Of the residual; x has 1. */
  deviation?: number;
  /** Elements between rows beyond their length. */
  gap?: number;
}

const cases: Case[] = [
  ...[1, 3, 7, 8, 16, 31, 64, 65, 130].map((H) => ({ title: `H = ${H}`, T: 3, H })),
  { title: 'no tokens', T: 0, H: 8 },
  { title: 'more tokens than a thread takes at once', T: 45, H: 21 },
  { title: 'strided rows', T: 5, H: 30, gap: 7 },
  { title: 'a residual that swallows most of x', T: 2, H: 64, deviation: 300 },
  { title: '0.5B', T: 3, H: 896 },
  { title: '7B', T: 3, H: 3584 },
  { title: '72B', T: 2, H: 8192 },
];

const eps = 1e-5;

interface Call extends Case {
  x: ArrayLike<number>;
  residual: ArrayLike<number>;
  weight: ArrayLike<number>;
}

const withValues = (given: Case): Call => ({
  ...given,
  x: uniforms(given.T * given.H, given.H),
  residual: uniforms(given.T * given.H, given.H + 1, given.deviation),
  weight: uniforms(given.H, given.H + 2).map((w) => w + 1),
});

function prepare(bench: OpBench, dtype: Activation, call: Call, inPlace = false) {
  const { T, H, gap = 0 } = call;
  const x = bench.from(dtype, [T, H], call.x, H + gap);
  return {
    x,
    residual: bench.from(dtype, [T, H], call.residual, H + 2 * gap),
    weight: bench.from('f32', [H], call.weight),
    out: inPlace ? x : bench.empty(dtype, [T, H], H + 3 * gap),
    eps,
  };
}

/** The rounded sum, exact on every device, and the norm of it. */
function model(dtype: Activation, call: Call) {
  const x = heldAs(dtype, call.x);
  const before = heldAs(dtype, call.residual);
  // A sum of two floats in float64, rounded to f32: what fp32 addition gives.
  const residual = heldAs(
    dtype,
    Float32Array.from(before, (value, i) => value + x[i]!),
  );
  return { residual, out: rmsNorm(residual, heldAs('f32', call.weight), Math.fround(eps)) };
}

for (const device of [reference, ...devicesUnderTest])
  describe(`add_rms_norm on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const call of cases.map(withValues)) {
        const expected = once(() => model(dtype, call));
        for (const inPlace of [false, true])
          it(`${call.title}, ${dtype}${inPlace ? ', out is x' : ''}`, () =>
            withBench(device, async (bench) => {
              const args = prepare(bench, dtype, call, inPlace);
              bench.run('add_rms_norm', args);
              const { residual, out } = expected();
              assertSameBits(await bench.read(args.residual), residual, 'residual');
              const tolerance = sumError(device, call.H);
              assertClose(await bench.read(args.out), out, (i) =>
                afterRounding(dtype, out[i]!, tolerance * Math.abs(out[i]!)),
              );
              if (!inPlace) assertSameBits(await bench.read(args.x), heldAs(dtype, call.x), 'x');
              for (const name of ['out', 'residual'] as const) await bench.requireGapsUntouched(args[name], name);
            }));
      }
  });

describe('add_rms_norm', () => {
  for (const simd of ['scalar', 'avx2', 'avx512'])
    it(`gives a row the same bits alone and in company, with any number of threads, on ${simd}`, async function () {
      const [T, H] = [37, 1100];
      const call = withValues({ title: '', T, H });
      const norm = (device: DeviceCase, row = 0, rows = T) =>
        withBench(device, async (bench) => {
          const { x, residual, out, weight } = prepare(bench, 'bf16', call);
          const part = (tensor: typeof x) => tensor.narrow(0, row, rows);
          bench.run('add_rms_norm', { x: part(x), residual: part(residual), out: part(out), weight, eps });
          return await bench.read(part(out));
        });
      const device = { title: simd, name: 'cpu', simd };
      requireDevice(this, device);
      const together = await norm({ ...device, threads: 1 });
      for (const threads of [2, 3, 7]) assertSameBits(await norm({ ...device, threads }), together);
      for (const row of [0, 1, 17, 36])
        assertSameBits(await norm({ ...device, threads: 2 }, row, 1), together.subarray(row * H, (row + 1) * H));
    });
});

describeContract({
  op: 'add_rms_norm',
  valid: (bench) => ({
    x: bench.from('bf16', [3, 8], uniforms(24, 1)),
    residual: bench.from('bf16', [3, 8], uniforms(24, 2)),
    weight: bench.from('f32', [8], uniforms(8, 3)),
    out: bench.empty('bf16', [3, 8]),
    eps: 1e-6,
  }),
  violations: [
    {
      title: 'a residual of another dtype than x',
      change: (bench) => ({ residual: bench.empty('f32', [3, 8]) }),
      says: /x and residual must have the same dtype, they have bf16 and f32/,
    },
    {
      title: 'out of another dtype than x',
      change: (bench) => ({ out: bench.empty('f32', [3, 8]) }),
      says: /x and out must have the same dtype, they have bf16 and f32/,
    },
    {
      title: 'a residual with another number of tokens',
      change: (bench) => ({ residual: bench.empty('bf16', [2, 8]) }),
      says: /residual must be \[T=3, H=8\]: T is set by x/,
    },
    {
      title: 'out in the residual',
      change: (_, { residual }) => ({ out: residual }),
      says: /residual must not overlap out/,
    },
    { title: 'x in the residual', change: (_, { residual }) => ({ x: residual }), says: /residual must not overlap x/ },
    {
      title: 'out that is x, moved by a row',
      change: (bench) => {
        const both = bench.empty('bf16', [4, 8]);
        return { x: both.narrow(0, 1, 3), out: both.narrow(0, 0, 3) };
      },
      says: /out must be x itself or not overlap it/,
    },
    { title: 'a negative eps', change: () => ({ eps: -1e-6 }), says: /eps must be positive/ },
  ],
});
