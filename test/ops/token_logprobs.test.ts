import assert from 'node:assert/strict';
import { Qwen2Error } from '../../lib/native/errors.js';
import { assertClose, assertSameBits } from '../support/compare.js';
import {
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';
import { gaussians } from '../support/philox.js';
import { LogProbabilities } from '../support/sampleModel.js';

const infinity = Number.POSITIVE_INFINITY;

/** Of a log-probability: one rounding of a float64 result, or what the contract grants. */
const allowedError = (device: DeviceCase) => (logprob: number) =>
  device.name === 'reference' ? 2 ** -24 * Math.abs(logprob) + 1e-12 : 2 ** -23 * Math.abs(logprob) + 1e-5;

interface Row {
  logits: Float32Array;
  target: number;
}

async function score(bench: OpBench, rows: readonly Row[], alternatives: number) {
  const size = rows[0]!.logits.length;
  const logits = new Float32Array(rows.length * size);
  for (const [t, row] of rows.entries()) logits.set(row.logits, t * size);
  const logprobs = bench.empty('f32', [rows.length]);
  const ranks = bench.empty('i32', [rows.length]);
  const top = alternatives > 0 && {
    top_ids: bench.empty('i32', [rows.length, alternatives], alternatives + 1),
    top_logprobs: bench.empty('f32', [rows.length, alternatives], alternatives + 2),
  };
  bench.run('token_logprobs', {
    logits: bench.from('f32', [rows.length, size], logits, size + 5),
    targets: bench.from(
      'i32',
      [rows.length],
      rows.map(({ target }) => target),
    ),
    logprobs,
    ranks,
    ...top,
  });
  return {
    logprobs: await bench.read(logprobs),
    ranks: await bench.read(ranks),
    topIds: top ? await bench.read(top.top_ids) : new Float64Array(),
    topLogprobs: top ? await bench.read(top.top_logprobs) : new Float64Array(),
  };
}

/** Every target of a row of logits, and a row that has none. */
const allTargets = (logits: Float32Array): Row[] =>
  Array.from({ length: logits.length + 1 }, (_, i) => ({ logits, target: i - 1 }));

const cases: { title: string; rows: Row[]; alternatives: number }[] = [
  ...[1, 2, 31, 32, 33, 64, 65].map((size) => ({
    title: `every token of a vocabulary of ${size}, all of it as alternatives`,
    rows: allTargets(gaussians(size, size, 4)),
    alternatives: size,
  })),
  { title: 'no alternatives', rows: allTargets(gaussians(40, 1)), alternatives: 0 },
  { title: 'one alternative', rows: allTargets(gaussians(40, 1)), alternatives: 1 },
  { title: 'all logits equal', rows: allTargets(new Float32Array(90).fill(3)), alternatives: 17 },
  { title: 'ties', rows: allTargets(gaussians(150, 2, 2).map(Math.round)), alternatives: 70 },
  {
    title: 'logits of minus infinity, fewer finite ones than alternatives',
    rows: allTargets(gaussians(90, 3).map((x, i) => (i % 9 === 4 ? x : -infinity))),
    alternatives: 30,
  },
  {
    title: 'huge and tiny logits',
    rows: allTargets(Float32Array.of(3e38, -3e38, 0, 1e-45, 3e38, 1, 80, -100)),
    alternatives: 8,
  },
  {
    title: 'the vocabulary of Qwen2',
    rows: [0, 151_643, 152_063].map((target) => ({ logits: gaussians(152_064, target, 3), target })),
    alternatives: 20,
  },
];

for (const device of [reference, ...devicesUnderTest])
  describe(`token_logprobs on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const { title, rows, alternatives } of cases)
      it(title, () =>
        withBench(device, async (bench) => {
          const scored = await score(bench, rows, alternatives);
          for (const [t, { logits, target }] of rows.entries()) {
            const ids = [...scored.topIds.subarray(t * alternatives, (t + 1) * alternatives)];
            const logprobs = scored.topLogprobs.subarray(t * alternatives, (t + 1) * alternatives);
            if (target === -1) {
              assert.deepEqual([scored.logprobs[t], scored.ranks[t]], [0, 0]);
              assert.ok(ids.every((id) => id === -1) && logprobs.every((logprob) => logprob === 0));
              continue;
            }
            const model = new LogProbabilities(logits);
            assertLogprob(scored.logprobs[t]!, model.of(target), `logprob of row ${t}`);
            assert.equal(scored.ranks[t], model.rank(target), `rank of row ${t}`);
            assert.deepEqual(ids, model.top(alternatives), `alternatives of row ${t}`);
            for (const [i, id] of ids.entries())
              assertLogprob(logprobs[i]!, model.of(id), `alternative ${i} of row ${t}`);
          }
        }),
      );

    function assertLogprob(actual: number, expected: number, what: string): void {
      if (Math.fround(expected) === -infinity) assert.equal(actual, -infinity, what);
      else assertClose([actual], [expected], allowedError(device)(expected), what);
    }

    it('gives a row the same bits alone and in any company', () =>
      withBench(device, async (bench) => {
        const rows = Array.from({ length: 11 }, (_, t) => ({ logits: gaussians(4000, t, 3), target: t * 300 }));
        const together = await score(bench, rows, 6);
        for (const [t, row] of rows.entries()) {
          const alone = await score(bench, [row], 6);
          assertSameBits(alone.logprobs, [together.logprobs[t]!]);
          assertSameBits(alone.ranks, [together.ranks[t]!]);
          assertSameBits(alone.topIds, together.topIds.subarray(t * 6, t * 6 + 6));
          assertSameBits(alone.topLogprobs, together.topLogprobs.subarray(t * 6, t * 6 + 6));
        }
      }));

    it('does not read the logits of a row without a target', () =>
      withBench(device, async (bench) => {
        const logits = new Float32Array(50).fill(Number.NaN);
        const { logprobs, ranks } = await score(bench, [{ logits, target: -1 }], 2);
        assert.deepEqual([logprobs[0], ranks[0]], [0, 0]);
      }));

    const fine = { logits: gaussians(100, 9), target: 5 };
    const errors: { title: string; row: Row; says: RegExp }[] = [
      { title: 'a target beyond V', row: { ...fine, target: 100 }, says: /row 1: target 100 .* 100 tokens/ },
      { title: 'a target below −1', row: { ...fine, target: -2 }, says: /row 1: target -2/ },
      {
        title: 'NaN',
        row: { logits: fine.logits.with(64, Number.NaN), target: 0 },
        says: /row 1: .*token 64 is -?nan/,
      },
      { title: '+∞', row: { logits: fine.logits.with(99, infinity), target: 99 }, says: /row 1: .*token 99 is inf/ },
      {
        title: 'nothing but −∞',
        row: { logits: new Float32Array(100).fill(-infinity), target: 0 },
        says: /row 1: .*-inf/,
      },
    ];
    for (const { title, row, says } of errors)
      it(`reports ${title}, naming the row`, () =>
        withBench(device, async (bench) => {
          await assert.rejects(score(bench, [fine, row, fine], 3), (error) => {
            assert.ok(error instanceof Qwen2Error && error.code === 'invalid_argument', String(error));
            assert.match(error.message, says);
            return true;
          });
        }));
  });
