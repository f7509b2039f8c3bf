import { assertSameBits } from '../support/compare.js';
import { describeContract } from '../support/contract.js';
import { fromF16 } from '../support/f16.js';
import { hardFloats } from '../support/hardFloats.js';
import {
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

type SourceType = 'f32' | 'f16' | 'bf16';

/** f16 bits of every kind: zeros, subnormals, normals, infinities, NaNs. */
const halves = (size: number) => Uint16Array.from({ length: size }, (_, i) => (i * 40_503) & 0xffff);

/** What is uploaded, and the numbers that the weight then holds. */
function values(dtype: SourceType, size: number, seed: number) {
  if (dtype === 'f16') {
    const given = halves(size);
    return { given, numbers: heldAs('bf16', Float64Array.from(given, fromF16)) };
  }
  const given = uniforms(size, seed);
  if (dtype === 'f32') given.set(hardFloats.slice(0, size));
  return { given, numbers: heldAs('bf16', given) };
}

interface Part {
  dtype: SourceType;
  rows: number;
  /** Elements between rows of the source beyond their length. */
  gap?: number;
}

const cases: { title: string; K: number; parts: Part[] }[] = [
  { title: 'one element', K: 1, parts: [{ dtype: 'f32', rows: 1 }] },
  ...(['f32', 'f16', 'bf16'] as const).flatMap((dtype) => [
    { title: `${dtype}, odd K`, K: 37, parts: [{ dtype, rows: 130 }] },
    { title: `${dtype}, even K, strided`, K: 64, parts: [{ dtype, rows: 65, gap: 3 }] },
    { title: `${dtype}, K of a whole number of lines and a pair`, K: 98, parts: [{ dtype, rows: 64 }] },
  ]),
  {
    title: 'q, k and v of three dtypes as one matrix, bounds within panels',
    K: 50,
    parts: [
      { dtype: 'bf16', rows: 70 },
      { dtype: 'f32', rows: 10 },
      { dtype: 'f16', rows: 60, gap: 1 },
    ],
  },
  {
    title: 'a part without rows',
    K: 6,
    parts: [
      { dtype: 'f32', rows: 3 },
      { dtype: 'f32', rows: 0 },
      { dtype: 'f16', rows: 2 },
    ],
  },
  { title: 'the width of 0.5B', K: 896, parts: [{ dtype: 'bf16', rows: 129 }] },
];

/** Every row of a packed weight, as `embedding` finds them. */
async function unpacked(bench: OpBench, weight: ReturnType<OpBench['weight']>): Promise<Float64Array> {
  const [N, K] = weight.shape as [number, number];
  const ids = bench.from(
    'i32',
    [N],
    Array.from({ length: N }, (_, n) => n),
  );
  const out = bench.empty('bf16', [N, K]);
  bench.run('embedding', { ids, table: weight, out });
  return await bench.read(out);
}

for (const device of [reference, ...devicesUnderTest])
  describe(`linear_pack on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const { title, K, parts } of cases)
      for (const order of ['in order', 'last part first'])
        it(`${title}, ${order}`, () => packsParts(device, K, parts, order !== 'in order'));

    it('leaves the rows beside its own as they were', () =>
      withBench(device, async (bench) => {
        const weight = bench.weight('linearWeight', 100, 9);
        const [before, after] = [values('f32', 900, 1), values('bf16', 27, 2)];
        bench.run('linear_pack', { source: bench.from('f32', [100, 9], before.given), weight, row_offset: 0 });
        bench.run('linear_pack', { source: bench.from('bf16', [3, 9], after.given), weight, row_offset: 62 });
        const expected = before.numbers.slice();
        expected.set(after.numbers, 62 * 9);
        assertSameBits(await unpacked(bench, weight), expected);
      }));
  });

function packsParts(device: DeviceCase, K: number, parts: readonly Part[], reversed: boolean): Promise<void> {
  return withBench(device, async (bench) => {
    const N = parts.reduce((sum, { rows }) => sum + rows, 0);
    const weight = bench.weight('linearWeight', N, K);
    const expected = new Float64Array(N * K);
    let offset = 0;
    const calls = parts.map(({ dtype, rows, gap = 0 }, i) => {
      const { given, numbers } = values(dtype, rows * K, i);
      expected.set(numbers, offset * K);
      const call = { source: bench.from(dtype, [rows, K], given, K + gap), weight, row_offset: offset };
      offset += rows;
      return call;
    });
    for (const call of reversed ? calls.reverse() : calls) bench.run('linear_pack', call);
    assertSameBits(await unpacked(bench, weight), expected);
  });
}

const rows = /rows row_offset … row_offset \+ R must lie within the weight's N rows/;

describeContract({
  op: 'linear_pack',
  valid: (bench) => ({
    source: bench.from('f16', [2, 4], new Uint16Array(8)),
    weight: bench.weight('linearWeight', 5, 4),
    row_offset: 3,
  }),
  free: ['weight.0'],
  violations: [
    { title: 'rows past the end', change: () => ({ row_offset: 4 }), says: rows },
    { title: 'rows past the end of 32 bits', change: () => ({ row_offset: 2 ** 31 - 1 }), says: rows },
    { title: 'rows before the start', change: () => ({ row_offset: -1 }), says: rows },
    {
      title: 'a source of i32',
      change: (bench) => ({ source: bench.empty('i32', [2, 4]) }),
      says: /source must be f32 or f16 or bf16/,
    },
    {
      title: 'a source of another K',
      change: (bench) => ({ source: bench.empty('f32', [2, 5]) }),
      says: /source must be \[R=2, K=4\]: K is set by weight/,
    },
    {
      title: 'the weight of swiglu',
      change: (bench) => ({ weight: bench.weight('swigluWeight', 6, 4) }),
      says: /weight must be a weight packed for this operation/,
    },
  ],
});
