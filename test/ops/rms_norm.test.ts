import { Tensor } from '../../lib/native/tensor.js';
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
  eps?: number;
  /** Of x. Default 1. */
  deviation?: number;
  /** Elements between rows beyond their length. */
  gap?: number;
}

const cases: Case[] = [
  ...[1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 100, 257].map((H) => ({ title: `H = ${H}`, T: 3, H })),
  { title: 'no tokens', T: 0, H: 8 },
  { title: 'more tokens than a thread takes at once', T: 45, H: 21 },
  { title: 'strided rows', T: 5, H: 30, gap: 7 },
  { title: 'eps that outweighs x', T: 2, H: 64, deviation: 1e-4, eps: 1e-5 },
  { title: 'eps 1e-6 where 1e-5 would show', T: 2, H: 64, deviation: 3e-3 },
  { title: 'zeros', T: 2, H: 40, deviation: 0 },
  { title: 'large activations', T: 2, H: 128, deviation: 1e4 },
  { title: '0.5B', T: 3, H: 896 },
  { title: '7B', T: 3, H: 3584 },
  { title: '72B', T: 2, H: 8192 },
];

interface Call extends Case {
  x: ArrayLike<number>;
  weight: ArrayLike<number>;
}

const withValues = (given: Case): Call => ({
  ...given,
  x: uniforms(given.T * given.H, given.H, given.deviation),
  weight: uniforms(given.H, 1000 + given.H).map((w) => w + 1),
});

/** Tensors of a call; out in a storage of its own, or x itself. */
function prepare(bench: OpBench, dtype: Activation, { T, H, gap = 0, eps = 1e-6, x, weight }: Call, inPlace = false) {
  const input = bench.from(dtype, [T, H], x, H + gap);
  const out = inPlace ? input : bench.empty(dtype, [T, H], H + 2 * gap);
  return { x: input, weight: bench.from('f32', [H], weight), out, eps };
}

for (const device of [reference, ...devicesUnderTest])
  describe(`rms_norm on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const dtype of activationsOf(device))
      for (const call of cases.map(withValues)) {
        const expected = once(() =>
          rmsNorm(heldAs(dtype, call.x), heldAs('f32', call.weight), Math.fround(call.eps ?? 1e-6)),
        );
        for (const inPlace of [false, true])
          it(`${call.title}, ${dtype}${inPlace ? ', in place' : ''}`, () =>
            withBench(device, async (bench) => {
              const args = prepare(bench, dtype, call, inPlace);
              bench.run('rms_norm', args);
              const tolerance = sumError(device, call.H);
              assertClose(await bench.read(args.out), expected(), (i) =>
                afterRounding(dtype, expected()[i]!, tolerance * Math.abs(expected()[i]!)),
              );
              await bench.requireGapsUntouched(args.out, 'out');
            }));
      }
  });

describe('rms_norm', () => {
  for (const simd of ['scalar', 'avx2', 'avx512'])
    it(`gives a row the same bits alone and in company, with any number of threads, on ${simd}`, async function () {
      const [T, H] = [37, 1100];
      const call = withValues({ title: '', T, H });
      const norm = (device: DeviceCase, row?: number) =>
        withBench(device, async (bench) => {
          const args = prepare(bench, 'bf16', call);
          const [x, out] =
            row === undefined ? [args.x, args.out] : [args.x.narrow(0, row, 1), args.out.narrow(0, row, 1)];
          bench.run('rms_norm', { ...args, x, out });
          return await bench.read(out);
        });
      const device = { title: simd, name: 'cpu', simd };
      requireDevice(this, device);
      const together = await norm({ ...device, threads: 1 });
      for (const threads of [2, 3, 7]) assertSameBits(await norm({ ...device, threads }), together);
      for (const row of [0, 1, 17, 36])
        assertSameBits(await norm({ ...device, threads: 2 }, row), together.subarray(row * H, (row + 1) * H));
    });

  it('takes an out whose rows lie in the gaps between those of x', () =>
    withBench(reference, async (bench) => {
      const { x, weight } = withValues({ title: '', T: 3, H: 8 });
      const both = bench.empty('f32', [3, 16]);
      const separate = prepare(bench, 'f32', { title: '', T: 3, H: 8, x, weight });
      const [left, right] = [both.narrow(1, 0, 8), both.narrow(1, 8, 8)];
      for (let t = 0; t < 3; t++)
        bench.stream.upload(left.narrow(0, t, 1), Float32Array.from(x).subarray(8 * t, 8 * t + 8));
      bench.run('rms_norm', { ...separate, x: left, out: right });
      bench.run('rms_norm', separate);
      assertSameBits(await bench.read(right), await bench.read(separate.out));
    }));
});

describeContract({
  op: 'rms_norm',
  valid: (bench) => ({
    x: bench.from('bf16', [3, 8], uniforms(24, 1)),
    weight: bench.from('f32', [8], uniforms(8, 2)),
    out: bench.empty('bf16', [3, 8]),
    eps: 1e-6,
  }),
  violations: [
    {
      title: 'a weight of bf16',
      change: (bench) => ({ weight: bench.empty('bf16', [8]) }),
      says: /weight must be f32; got rms_norm\(x bf16\[3, 8\], weight bf16\[8\], out bf16\[3, 8\], eps 1e-06\)/,
    },
    {
      title: 'a weight of another width',
      change: (bench) => ({ weight: bench.empty('f32', [9]) }),
      says: /weight must be \[H=8\]: H is set by x/,
    },
    {
      title: 'out of another dtype than x',
      change: (bench) => ({ out: bench.empty('f32', [3, 8]) }),
      says: /x and out must have the same dtype, they have bf16 and f32/,
    },
    {
      title: 'out that is x, moved by a row',
      change: (bench) => {
        const both = bench.empty('bf16', [4, 8]);
        return { x: both.narrow(0, 0, 3), out: both.narrow(0, 1, 3) };
      },
      says: /out must be x itself or not overlap it/,
    },
    {
      title: 'out that shares columns with x',
      change: (bench) => {
        const both = bench.empty('bf16', [3, 15]);
        return { x: both.narrow(1, 0, 8), out: both.narrow(1, 7, 8) };
      },
      says: /out must be x itself or not overlap it/,
    },
    {
      title: 'rows of out that end in the next row of x',
      change: (bench) => {
        const both = bench.empty('bf16', [4, 15]);
        return {
          x: both.narrow(1, 0, 8).narrow(0, 0, 3),
          out: new Tensor(both.storage, 'bf16', [3, 8], { byteOffset: 2 * 8, strides: [15, 1] }),
        };
      },
      says: /out must be x itself or not overlap it/,
    },
    { title: 'eps 0', change: () => ({ eps: 0 }), says: /eps must be positive; got .* eps 0\)/ },
    { title: 'eps NaN', change: () => ({ eps: Number.NaN }), says: /eps must be positive/ },
  ],
});
