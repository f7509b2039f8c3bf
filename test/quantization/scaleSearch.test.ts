import assert from 'node:assert/strict';
import { join } from 'node:path';
import { readSafetensorsHeader, type TensorEntry } from '../../lib/checkpoint/safetensors.js';
import { TensorReader } from '../../lib/checkpoint/tensorReader.js';
import type { Tensor } from '../../lib/native/tensor.js';
import { ScaleSearch } from '../../lib/quantization/scaleSearch.js';
import type { GroupSize } from '../../lib/quantization/shards.js';
import { roundToBf16 } from '../support/bf16.js';
import { floatTensor, removeFolders, safetensors, writeFolder } from '../support/checkpointFiles.js';
import { assertClose } from '../support/compare.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import { dequantized } from '../support/int4Formats.js';
import { roundedToInt4 } from '../support/int4Rounding.js';
import { type DeviceCase, devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';
import { heldAs } from '../support/precision.js';
import { uniforms } from '../support/uniforms.js';

interface Case {
  title: string;
  T: number;
  /** Rows of each matrix. */
  rows: number[];
  K: number;
  group: GroupSize;
  clipSteps: number;
  /** How much larger than the others column k of the inputs is. */
  magnitude: (k: number) => number;
}

/** One column of 64 is 40 times as large as the others: what AWQ is made for. */
const outliers = (k: number) => (k % 64 === 5 ? 40 : 1);

const cases: Case[] = [
  { title: 'outliers', T: 24, rows: [16], K: 128, group: 64, clipSteps: 4, magnitude: outliers },
  { title: 'outliers, two matrices', T: 9, rows: [16, 8], K: 64, group: 32, clipSteps: 0, magnitude: outliers },
  { title: 'inputs of one size', T: 16, rows: [8], K: 64, group: 32, clipSteps: 0, magnitude: () => 1 },
  { title: 'columns that are not used', T: 8, rows: [8], K: 32, group: 32, clipSteps: 0, magnitude: (k) => k % 3 },
  {
    title: 'more tokens than are compared at once',
    T: 2100,
    rows: [8],
    K: 32,
    group: 32,
    clipSteps: 0,
    magnitude: outliers,
  },
];

function inputsOf({ T, K, magnitude }: Case): Float64Array {
  return heldAs(
    'bf16',
    uniforms(T * K, T + K).map((x, i) => x * magnitude(i % K)),
  );
}

/** Numbers that bf16 holds: what is multiplied without rounding is then what the file has. */
function matricesOf({ rows, K }: Case): Float32Array[] {
  return rows.map((N, i) => Float32Array.from(heldAs('bf16', uniforms(N * K, 77 + i, 0.1))));
}

/** Scales and errors as the search's description says, in float64 but for what is rounded. */
function expectedOf(given: Case): { scales: Float32Array; error: number }[] {
  const { T, rows, K, group, clipSteps } = given;
  const [x, matrices] = [inputsOf(given), matricesOf(given)];
  const means = Array.from({ length: K }, (_, k) => {
    let sum = 0;
    for (let t = 0; t < T; t++) sum += Math.abs(x[t * K + k]!);
    return Math.max(sum / T, 1e-4);
  });
  return Array.from({ length: 20 }, (_, i) => {
    const powers = means.map((mean) => mean ** (i / 20));
    const middle = Math.sqrt(Math.max(...powers) * Math.min(...powers));
    const scales = Float32Array.from(powers, (power) => power / middle);
    let error = 0;
    for (const [m, N] of rows.entries()) {
      const w = matrices[m]!;
      const scaled = w.map((value, j) => value * scales[j % K]!);
      const { weight } = dequantized([roundedToInt4(scaled, N, K, K / group, clipSteps)]);
      for (let t = 0; t < T; t++)
        for (let n = 0; n < N; n++) {
          let difference = 0;
          for (let k = 0; k < K; k++) {
            const input = x[t * K + k]!;
            difference += weight[n * K + k]! * roundToBf16(Math.fround(input / scales[k]!)) - w[n * K + k]! * input;
          }
          error += difference ** 2;
        }
    }
    return { scales, error };
  });
}

/** Runs `body` with a search on a device, the inputs, and the matrices in a file. */
function withSearch<T>(
  device: DeviceCase,
  given: Case,
  body: (search: ScaleSearch, x: Tensor, entries: TensorEntry[]) => Promise<T>,
): Promise<T> {
  return withBench(device, async (bench) => {
    const { T, rows, K, group, clipSteps } = given;
    const tensors = matricesOf(given).map((values, i) => [String(i), floatTensor('F32', [rows[i]!, K], values)]);
    const folder = await writeFolder({ 'matrices.safetensors': safetensors(Object.fromEntries(tensors)) });
    const entries = [...(await readSafetensorsHeader(join(folder, 'matrices.safetensors'))).values()];
    const reader = new TensorReader(bench.stream);
    try {
      const search = new ScaleSearch(bench.device, bench.stream, reader, { groupSize: group, clipSteps });
      return await body(search, bench.from('bf16', [T, K], inputsOf(given)), entries);
    } finally {
      await reader.close();
    }
  });
}

describe('the search of AWQ’s scales', () => {
  after(removeFolders);

  const models = new Map<Case, ReturnType<typeof expectedOf>>();
  const modelOf = (given: Case) => models.get(given) ?? models.set(given, expectedOf(given)).get(given)!;

  for (const device of [reference, ...devicesUnderTest])
    for (const given of cases)
      it(`finds what a float64 model finds, ${given.title}, on ${device.title}`, async function () {
        requireDevice(this, device);
        const expected = modelOf(given);
        const { scales, ratio, errors } = await withSearch(device, given, (search, x, entries) =>
          search.run(x, entries),
        );
        // A last bit of a mean moves a scale's, and that now and then the q of a weight that is between two.
        assertClose(
          errors,
          expected.map(({ error }) => error),
          (i) => 0.02 * expected[i]!.error,
          'error',
        );
        assert.equal(errors[Math.round(20 * ratio)], Math.min(...errors), 'the least error wins');
        const best = expected[Math.round(20 * ratio)]!;
        assertClose(scales, best.scales, (k) => 1e-5 * best.scales[k]!, 'scale');
      });

  it('loses less than half of what rounding without scales loses, where inputs have outliers', async () => {
    const { ratio, errors } = await withSearch(reference, cases[0]!, (search, x, entries) => search.run(x, entries));
    const least = Math.min(...errors);
    assert.ok(ratio > 0 && least < 0.5 * errors[0]!, `${least} at α = ${ratio}, ${errors[0]} without scales`);
  });

  it('never loses more: without outliers, α is small', async () => {
    const { errors } = await withSearch(reference, cases[2]!, (search, x, entries) => search.run(x, entries));
    assert.ok(Math.min(...errors) <= errors[0]!);
  });

  it('gives the same twice', () =>
    withSearch({ title: 'cpu', name: 'cpu', threads: 2 }, cases[0]!, async (search, x, entries) => {
      assert.deepEqual(await search.run(x, entries), await search.run(x, entries));
    }));

  it('names a matrix that is not finite', async () => {
    const folder = await writeFolder({
      'matrices.safetensors': safetensors({ bad: floatTensor('F32', [8, 32], new Float32Array(256).fill(Number.NaN)) }),
    });
    const entries = [...(await readSafetensorsHeader(join(folder, 'matrices.safetensors'))).values()];
    await withSearch(reference, cases[2]!, async (search, x) => {
      const call = search.run(x.narrow(1, 0, 32), entries);
      await assertRejectsQwen2(call, 'invalid_checkpoint', 'tensor bad', 'row 0, column 0 is not a finite number');
    });
  });
});
