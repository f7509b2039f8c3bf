import { fromBf16 } from '../support/bf16.js';
import { assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { fromF16 } from '../support/f16.js';
import { hardFloats } from '../support/hardFloats.js';
import { devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';
import { heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

const all16Bits = Uint16Array.from({ length: 1 << 16 }, (_, i) => i);
const floats = Float32Array.from([...hardFloats, ...uniforms(150_000, 1, 1e3)]);

/** What is uploaded, and the numbers that it stands for. */
const sources = [
  { title: 'every f16', dtype: 'f16', values: all16Bits, numbers: Float64Array.from(all16Bits, fromF16) },
  { title: 'every bf16', dtype: 'bf16', values: all16Bits, numbers: Float64Array.from(all16Bits, fromBf16) },
  { title: 'f32 with ties, subnormals, overflow and NaN', dtype: 'f32', values: floats, numbers: floats },
] as const;

for (const device of [reference, ...devicesUnderTest])
  describe(`convert on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const { title, dtype, values, numbers } of sources)
      for (const to of ['bf16', 'f32'] as const)
        it(`${title} to ${to}`, () =>
          withBench(device, async (bench) => {
            const out = bench.empty(to, [values.length]);
            bench.run('convert', { source: bench.from(dtype, [values.length], values), out });
            assertSameBits(await bench.read(out), heldAs(to, numbers));
          }));

    for (const shape of [[1], [0], [1, 1], [3, 5], [1, 7], [0, 4]])
      it(`a tensor [${shape}]`, () =>
        withBench(device, async (bench) => {
          const size = shape.reduce((product, n) => product * n);
          const out = bench.empty('f32', shape);
          const values = heldAs('bf16', uniforms(size, 2));
          bench.run('convert', { source: bench.from('bf16', shape, values), out });
          assertSameBits(await bench.read(out), values);
        }));
  });

describeContract({
  op: 'convert',
  valid: (bench) => ({ source: bench.from('f16', [2, 3], new Uint16Array(6)), out: bench.empty('f32', [2, 3]) }),
  violations: [
    {
      title: 'out of f16',
      change: (bench) => ({ out: bench.empty('f16', [2, 3]) }),
      says: /out must be f32 or bf16/,
    },
    {
      title: 'a strided source',
      change: (bench) => ({ source: bench.empty('f32', [2, 3], 5) }),
      says: /source and out must be contiguous; got convert\(source f32\[2, 3\] strides \[5, 1\]/,
    },
    {
      title: 'a strided out',
      change: (bench) => ({ out: bench.empty('f32', [2, 3], 5) }),
      says: /source and out must be contiguous/,
    },
    {
      title: 'as many elements in another shape',
      change: (bench) => ({ out: bench.empty('f32', [3, 2]) }),
      says: /out must be \[R=2, N=3\]: R is set by source/,
    },
    {
      title: 'a vector into a matrix',
      change: (bench) => ({ source: bench.empty('f32', [6]) }),
      says: /out must be \[N=6\]/,
    },
  ],
});
