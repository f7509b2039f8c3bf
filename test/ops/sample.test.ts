import assert from 'node:assert/strict';
import { Qwen2Error } from '../../lib/native/errors.js';
import { assertClose } from '../support/compare.js';
import { type DeviceCase, devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';
import { gaussians, philox } from '../support/philox.js';
import { callSample, type Sampled } from '../support/sampleCall.js';
import { LogProbabilities, possibleTokens, type SampleRow, sampleRow } from '../support/sampleModel.js';

const infinity = Number.POSITIVE_INFINITY;

/** Relative error of a token's mass: between float64 of two libraries, and what the contract grants. */
const massError = { reference: 1e-12, contract: 1e-5 };
/** Of a log-probability: one rounding of a float64 result, or what the contract grants. */
const logprobError = (device: DeviceCase) => (logprob: number) =>
  device.name === 'reference' ? 2 ** -24 * Math.abs(logprob) + 1e-12 : 2 ** -23 * Math.abs(logprob) + 1e-5;

const constant = (size: number, value: number) => new Float32Array(size).fill(value);

/** Logits of a few values only: ties everywhere. */
const tied = (size: number, seed: number) => gaussians(size, seed, 2).map(Math.round);

const some = (from: number, ids: number, step = 1) => Array.from({ length: ids }, (_, i) => from + i * step);

/** The same row under several seeds. */
const seeded = (count: number, row: SampleRow): SampleRow[] =>
  some(0, count).map((i) => ({ ...row, seed: [i * 7919, i], choice: i % 3, token: i % 11 }));

interface Case {
  title: string;
  rows: SampleRow[];
  /** Default 5, or the whole vocabulary if it is smaller. */
  alternatives?: number;
}

const history = { prompt: [3, 5, 5, 64, 99], output: [5, 7, 7, 7, 31, 32] };
const spread = gaussians(100, 1, 3);

const small: Case[] = [
  ...[1, 2, 31, 32, 33, 63, 64, 65, 1023, 1024, 1025, 3000].map((size) => ({
    title: `vocabulary of ${size}`,
    rows: [
      sampleRow({ logits: gaussians(size, size), temperature: 0 }),
      ...seeded(4, sampleRow({ logits: gaussians(size, size) })),
      sampleRow({ logits: gaussians(size, size), topK: 20, topP: 0.8, temperature: 0.7 }),
      sampleRow({ logits: gaussians(size, size), topP: 0.8, history: { prompt: [size - 1], output: [0] } }),
    ],
  })),
  ...[1, 2, 19, 99, 100, 101, 2 ** 30].map((topK) => ({
    title: `top_k ${topK}`,
    rows: seeded(6, sampleRow({ logits: spread, topK })),
  })),
  ...[1e-9, 0.1, 0.5, 0.95, 0.999999, 1].map((topP) => ({
    title: `top_p ${topP}`,
    rows: seeded(6, sampleRow({ logits: spread, topP })),
  })),
  ...[1e-9, 1e-3, 0.1, 0.9, 1].map((minP) => ({
    title: `min_p ${minP}`,
    rows: seeded(6, sampleRow({ logits: spread, minP })),
  })),
  ...[1e-45, 1e-30, 1e-3, 0.3, 5, 1e30].map((temperature) => ({
    title: `temperature ${temperature}`,
    rows: [
      ...seeded(4, sampleRow({ logits: spread, temperature })),
      ...seeded(4, sampleRow({ logits: spread, temperature, topK: 7, topP: 0.9, minP: 1e-4 })),
      ...seeded(4, sampleRow({ logits: spread, temperature, topP: 0.9 })),
    ],
  })),
  {
    title: 'all logits equal, under every filter',
    rows: [
      {},
      { topK: 3 },
      { topP: 0.305 },
      { minP: 1 },
      { topK: 50, topP: 0.305, minP: 0.5 },
      { temperature: 0 },
    ].flatMap((given) => seeded(5, sampleRow({ logits: constant(100, -7.25), ...given }))),
    alternatives: 100,
  },
  {
    title: 'ties at the edge of every filter',
    rows: [{ topK: 9 }, { topK: 40 }, { topP: 0.3 }, { topP: 0.9 }, { minP: 0.1 }, { topK: 60, topP: 0.5 }].flatMap(
      (given) => seeded(8, sampleRow({ logits: tied(300, 4), ...given })),
    ),
    alternatives: 150,
  },
  {
    title: 'logits far apart, tiny and huge',
    rows: [{}, { topK: 3 }, { topP: 0.9 }, { temperature: 0 }, { temperature: 1e30, topP: 0.9 }].flatMap((given) =>
      seeded(4, sampleRow({ logits: Float32Array.of(3e38, -3e38, 0, 1e-45, -1e-45, 2e38, 3e38, 1), ...given })),
    ),
    alternatives: 8,
  },
  {
    title: 'logits that differ by one bit',
    rows: [{ topK: 2 }, { topP: 0.5 }, { minP: 1 }, { temperature: 0 }].flatMap((given) =>
      seeded(6, sampleRow({ logits: Float32Array.from(some(0, 70), (i) => 1 + ((i * 37) % 70) * 2 ** -23), ...given })),
    ),
    alternatives: 70,
  },
  {
    title: 'logits of minus infinity',
    rows: [{}, { topK: 40 }, { topP: 0.99 }, { minP: 1e-6 }, { temperature: 0 }].flatMap((given) =>
      seeded(6, sampleRow({ logits: gaussians(200, 3).map((x, i) => (i % 8 === 5 ? x : -infinity)), ...given })),
    ),
    alternatives: 60,
  },
  {
    title: 'a single token that is not forbidden, by logits, by biases, by the mask',
    rows: [
      sampleRow({ logits: constant(70, -infinity).with(66, -50) }),
      sampleRow({ logits: spread.slice(0, 70), biases: some(0, 69).map((id) => [id, -infinity]) }),
      sampleRow({ logits: spread.slice(0, 70), allowed: (id) => id === 33 }),
      sampleRow({ logits: spread.slice(0, 70), allowed: (id) => id === 0, temperature: 0 }),
    ],
  },
  {
    title: 'masks, of some rows',
    rows: [
      ...seeded(3, sampleRow({ logits: spread, allowed: (id) => id % 3 === 1 })),
      ...seeded(3, sampleRow({ logits: spread })),
      ...seeded(3, sampleRow({ logits: spread, topP: 0.9, allowed: (id) => id > 31 && id < 64 })),
    ],
  },
  {
    title: 'biases, of some rows, several for one token',
    rows: [
      sampleRow({ logits: spread, biases: [[42, 100]] }),
      sampleRow({ logits: spread }),
      sampleRow({
        logits: spread,
        temperature: 0,
        biases: [
          [99, 60],
          [99, -60],
          [0, 30],
        ],
      }),
      // In this order the sum is 0, in another 1: above 2²⁴ a float has no odd integers.
      sampleRow({
        logits: Float32Array.of(0, 0.5, ...constant(98, -1)),
        temperature: 0,
        biases: [2 ** 24, 1, -(2 ** 24)].map((bias) => [0, bias]),
      }),
      ...seeded(
        5,
        sampleRow({
          logits: spread,
          topK: 5,
          biases: [
            [1, 6.5],
            [2, 6.25],
            [50, -infinity],
          ],
        }),
      ),
    ],
  },
  ...(
    [
      { repetitionPenalty: 1.3 },
      { repetitionPenalty: 0.7 },
      { presencePenalty: 1.5 },
      { presencePenalty: -2 },
      { frequencyPenalty: 0.9 },
      { frequencyPenalty: -1.1 },
      { repetitionPenalty: 1.05, presencePenalty: 0.3, frequencyPenalty: 0.2 },
    ] as const
  ).map((penalties) => ({
    title: `penalties ${JSON.stringify(penalties)}`,
    rows: [
      ...seeded(4, sampleRow({ logits: spread, history, ...penalties })),
      ...seeded(4, sampleRow({ logits: spread, history, topK: 20, topP: 0.8, ...penalties })),
      sampleRow({ logits: constant(100, -1), history, temperature: 0, ...penalties }),
      sampleRow({ logits: constant(100, 1), history, temperature: 0, ...penalties }),
      sampleRow({ logits: spread, temperature: 0, ...penalties }),
    ],
  })),
  {
    title: 'mask, biases and penalties at once, rows of all kinds in one call',
    rows: [
      sampleRow({ logits: spread, temperature: 0 }),
      sampleRow({ logits: spread, history, repetitionPenalty: 1.2, biases: [[7, 4]], allowed: (id) => id % 2 === 1 }),
      sampleRow({ logits: spread, topK: 1, seed: [-1, -1] }),
      sampleRow({ logits: spread, topP: 0.5, frequencyPenalty: 2, history: { prompt: [], output: some(0, 90) } }),
      sampleRow({ logits: spread, minP: 0.2, history: { prompt: some(0, 100), output: [] }, repetitionPenalty: 3 }),
    ],
    alternatives: 1,
  },
];

const large = 152_064;
const largeCases: Case[] = [
  {
    title: 'the vocabulary of Qwen2',
    rows: [
      sampleRow({ logits: gaussians(large, 2, 3), temperature: 0 }),
      ...seeded(2, sampleRow({ logits: gaussians(large, 2, 3) })),
      ...seeded(2, sampleRow({ logits: gaussians(large, 2, 3), temperature: 0.7, topK: 20, topP: 0.8 })),
      sampleRow({ logits: gaussians(large, 2, 3), topK: 5000, topP: 0.95, seed: [1, 2] }),
      sampleRow({ logits: gaussians(large, 2, 1), topP: 0.8, seed: [3, 4] }),
      sampleRow({ logits: gaussians(large, 2, 1), temperature: 0.6, minP: 0.05, seed: [5, 6] }),
      sampleRow({ logits: constant(large, 2), topP: 0.5, seed: [7, 8] }),
    ],
    alternatives: 20,
  },
];

/** What the model says is the same for every device. */
function remembered<Key extends WeakKey, Value>(model: (key: Key) => Value): (key: Key) => Value {
  const known = new WeakMap<Key, Value>();
  return (key) => {
    const value = known.get(key) ?? model(key);
    known.set(key, value);
    return value;
  };
}

const exactTokens = remembered((row: SampleRow) => possibleTokens(row, massError.reference));
const closeTokens = remembered((row: SampleRow) => possibleTokens(row, massError.contract));
const expectedProbabilities = remembered((logits: Float32Array) => new LogProbabilities(logits));

function assertAsModelled(device: DeviceCase, { rows, alternatives = 5 }: Case, sampled: Sampled): void {
  for (const [b, row] of rows.entries()) {
    const token = sampled.tokens[b]!;
    const possible = device.name === 'reference' ? exactTokens(row) : closeTokens(row);
    assert.ok(possible.has(token), `row ${b}: chose ${token}, the model chooses ${[...possible]}`);
    const model = expectedProbabilities(row.logits);
    assertClose(
      [sampled.logprobs[b]!],
      [model.of(token)],
      logprobError(device)(model.of(token)),
      `logprob of row ${b}`,
    );
    assert.equal(sampled.ranks[b], model.rank(token), `rank of row ${b}`);
    const top = model.top(Math.min(alternatives, row.logits.length));
    assert.deepEqual(sampled.topIds[b], top, `alternatives of row ${b}`);
    for (const [i, id] of top.entries()) {
      const expected = model.of(id);
      if (Math.fround(expected) === -infinity) assert.equal(sampled.topLogprobs[b]![i], -infinity);
      else
        assertClose(
          [sampled.topLogprobs[b]![i]!],
          [expected],
          logprobError(device)(expected),
          `alternative ${i} of row ${b}`,
        );
    }
    if (row.history === undefined) continue;
    const counts = new Float64Array(row.logits.length);
    for (const id of [...row.history.output, token]) counts[id]!++;
    assert.deepEqual(sampled.counts[b], counts, `counts of row ${b}`);
  }
}

for (const device of [reference, ...devicesUnderTest])
  describe(`sample on ${device.title}`, () => {
    before(function () {
      requireDevice(this, device);
    });

    for (const given of [...small, ...largeCases])
      it(given.title, () =>
        withBench(device, async (bench) => {
          const alternatives = Math.min(given.alternatives ?? 5, given.rows[0]!.logits.length);
          assertAsModelled(device, given, await callSample(bench, given.rows, alternatives));
        }),
      );

    it("draws with Philox4x32-10: of 65536 equal logits, the token is its first word's upper half", () =>
      withBench(device, async (bench) => {
        const logits = constant(65_536, 0.5);
        // The published answer to an all-zero key and counter is 6627e8d5 ….
        const rows = [sampleRow({ logits }), ...seeded(40, sampleRow({ logits }))];
        const { tokens } = await callSample(bench, rows);
        assert.equal(tokens[0], 0x6627);
        assert.deepEqual(
          tokens,
          rows.map((row) => philox([row.token, row.choice, 0, 0], row.seed)[0] >>> 16),
        );
      }));

    it('draws tokens as often as they are probable', () =>
      withBench(device, async (bench) => {
        const logits = Float32Array.from([0.3, 0.02, 0.18, 0.25, 0.05, 0.2], Math.log);
        const draws = 5000;
        const { tokens } = await callSample(
          bench,
          some(0, draws).map((i) => sampleRow({ logits, temperature: 2, topK: 5, seed: [i, 0] })),
        );
        const roots = [0.3, 0, 0.18, 0.25, 0.05, 0.2].map(Math.sqrt);
        const total = roots.reduce((a, b) => a + b);
        assert.ok(!tokens.includes(1));
        // Pearson's χ² with 4 degrees of freedom is above 18.5 once in 1000 sets of seeds; these are fixed.
        let chiSquare = 0;
        for (const [id, root] of roots.entries()) {
          if (root === 0) continue;
          const expected = (draws * root) / total;
          chiSquare += (tokens.filter((token) => token === id).length - expected) ** 2 / expected;
        }
        assert.ok(chiSquare < 18.5, `χ² is ${chiSquare}`);
      }));

    it('gives a row the same bits alone and in any company', () =>
      withBench(device, async (bench) => {
        const logits = gaussians(5000, 6, 2);
        const row = (i: number) =>
          sampleRow({
            logits: logits.map((x, v) => x + ((i * v) % 7) / 7),
            temperature: 0.5 + (i % 3) / 4,
            topK: [0, 20, 0, 300][i % 4]!,
            topP: i % 2 === 1 ? 0.9 : 1,
            seed: [i, i],
            ...(i % 3 === 0 ? { history, repetitionPenalty: 1.1 } : {}),
          });
        const rows = some(0, 13).map(row);
        const together = await callSample(bench, rows, 4);
        for (const [b, alone] of rows.entries()) {
          const single = await callSample(bench, [alone], 4);
          for (const field of ['tokens', 'logprobs', 'ranks', 'topIds', 'topLogprobs'] as const)
            assert.deepEqual(single[field][0], together[field][b], `${field} of row ${b}`);
        }
      }));

    it('goes on counting from call to call', () =>
      withBench(device, async (bench) => {
        const row = sampleRow({ logits: Float32Array.of(3, 2, 1), temperature: 0, frequencyPenalty: 0.75 });
        const first = await callSample(bench, [{ ...row, history: { prompt: [], output: [] } }]);
        assert.deepEqual(first.tokens, [0]);
        const output: number[] = [];
        for (let i = 0; i < 6; i++)
          output.push((await callSample(bench, [{ ...row, history: { prompt: [], output } }])).tokens[0]!);
        // After each choice the token loses 0.75: 3 2 1, 2.25 2 1, 1.5 2 1, 1.5 1.25 1, 0.75 1.25 1, 0.75 0.5 1.
        assert.deepEqual(output, [0, 0, 1, 0, 1, 2]);
      }));

    describe('reports, naming the row,', () => {
      const fine = sampleRow({ logits: spread, history });
      const errors: { title: string; row: SampleRow; says: RegExp }[] = [
        { title: 'NaN', row: sampleRow({ logits: spread.with(77, Number.NaN) }), says: /row 1: .*token 77 is -?nan/ },
        {
          title: 'NaN under greedy choice',
          row: sampleRow({ logits: spread.with(0, Number.NaN), temperature: 0 }),
          says: /row 1: .*token 0 is -?nan/,
        },
        { title: 'nothing but NaN', row: sampleRow({ logits: constant(100, Number.NaN) }), says: /row 1: .*nan/ },
        {
          title: '+∞',
          row: sampleRow({ logits: spread.with(64, infinity), topK: 3 }),
          says: /row 1: .*token 64 is inf/,
        },
        { title: 'nothing but −∞', row: sampleRow({ logits: constant(100, -infinity) }), says: /row 1: .*-inf/ },
        {
          title: 'a mask that leaves no token',
          row: sampleRow({ logits: spread, allowed: () => false }),
          says: /row 1: no token is left/,
        },
        {
          title: 'biases that leave no token',
          row: sampleRow({ logits: spread, temperature: 0, biases: some(0, 100).map((id) => [id, -infinity]) }),
          says: /row 1: no token is left/,
        },
        { title: 'a bias of +∞', row: sampleRow({ logits: spread, biases: [[9, infinity]] }), says: /row 1: .*inf/ },
        { title: 'a bias of NaN', row: sampleRow({ logits: spread, biases: [[9, Number.NaN]] }), says: /row 1: .*nan/ },
        {
          title: 'a bias beyond V',
          row: sampleRow({ logits: spread, biases: [[100, 1]] }),
          says: /row 1: .*token 100/,
        },
        { title: 'a bias of −1', row: sampleRow({ logits: spread, biases: [[-1, 1]] }), says: /row 1: .*token -1/ },
        {
          title: 'a temperature below 0',
          row: sampleRow({ logits: spread, temperature: -1 }),
          says: /row 1: temperature is -1/,
        },
        { title: 'a top_p above 1', row: sampleRow({ logits: spread, topP: 1.5 }), says: /row 1: top_p is 1.5/ },
        {
          title: 'a min_p of NaN',
          row: sampleRow({ logits: spread, minP: Number.NaN }),
          says: /row 1: min_p is -?nan/,
        },
        {
          title: 'a repetition penalty of 0',
          row: sampleRow({ logits: spread, repetitionPenalty: 0 }),
          says: /row 1: repetition_penalty is 0/,
        },
      ];
      for (const { title, row, says } of errors)
        it(title, () =>
          withBench(device, async (bench) => {
            await assert.rejects(callSample(bench, [fine, row, fine]), (error) => {
              assert.ok(error instanceof Qwen2Error && error.code === 'invalid_argument', String(error));
              assert.match(error.message, says);
              return true;
            });
            await assert.rejects(bench.stream.synchronized(), { message: says });
            assertAsModelled(device, { title, rows: [fine] }, await callSample(bench, [fine], 5));
          }),
        );

      for (const stateRow of [-2, 1])
        it(`state row ${stateRow} of one, and leaves the counts as they were`, () =>
          withBench(device, async (bench) => {
            const counts = bench.from('i32', [1, 3], [4, 5, 6]);
            bench.run('sample', {
              logits: bench.from('f32', [2, 3], [1, 2, 3, 1, 2, 3]),
              parameters: bench.from('f32', [2, 6], [0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0]),
              choices: bench.from('i32', [2, 5], new Int32Array(10)),
              rows: bench.from('i32', [2], [0, stateRow]),
              prompt_masks: bench.from('i32', [1, 1], [0]),
              counts,
              tokens: bench.empty('i32', [2]),
              logprobs: bench.empty('f32', [2]),
              ranks: bench.empty('i32', [2]),
            });
            await assert.rejects(bench.stream.synchronized(), {
              message: new RegExp(`row 1: .*state row ${stateRow}`),
            });
            assert.deepEqual([...(await bench.read(counts))], [4, 5, 6]);
          }));

      for (const [prompt, output] of [
        [[3], []],
        [[], [-1]],
      ] as const)
        it(`a history of prompt [${prompt}], output [${output}] in a vocabulary of 3`, () =>
          withBench(device, async (bench) => {
            const row = sampleRow({ logits: Float32Array.of(1, 2, 3), history: { prompt, output } });
            await assert.rejects(callSample(bench, [row]), {
              code: 'invalid_argument',
              message: /beyond the 3 tokens/,
            });
          }));
    });
  });

describe('sample', () => {
  for (const simd of ['scalar', 'avx2', 'avx512'])
    it(`gives the same bits with any number of threads on ${simd}`, async function () {
      const rows = some(0, 3).flatMap((i) => [
        sampleRow({ logits: gaussians(20_000, i, 2), seed: [i, 0] }),
        sampleRow({ logits: gaussians(20_000, i, 2), seed: [i, 1], topP: 0.9, temperature: 0.8 }),
        sampleRow({ logits: gaussians(20_000, i, 2), seed: [i, 2], history, repetitionPenalty: 1.2, topK: 50 }),
      ]);
      const runs: Sampled[] = [];
      for (const threads of [1, 2, 3, 16]) {
        const device = { title: simd, name: 'cpu', simd, threads };
        requireDevice(this, device);
        runs.push(await withBench(device, (bench) => callSample(bench, rows, 7)));
      }
      for (const run of runs) assert.deepEqual(run, runs[0]);
    });
});

describe('the model of Philox4x32-10', () => {
  it('gives the known answers of Random123', () => {
    const ones = 0xffffffff;
    assert.deepEqual(philox([0, 0, 0, 0], [0, 0]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
    assert.deepEqual(philox([ones, ones, ones, ones], [ones, ones]), [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
    assert.deepEqual(
      philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
      [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
    );
  });
});
