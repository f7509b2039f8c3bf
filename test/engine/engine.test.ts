import assert from 'node:assert/strict';
import { Qwen2Error } from '../../lib/native/errors.js';
import { EngineBench, type EngineBenchOptions, type Outcome, withEngine } from '../support/engineBench.js';
import {
  engineFolder as folder,
  oneByOne,
  promptOf,
  submit,
  vocabularySize,
  type Work,
} from '../support/engineWork.js';
import { devicesUnderTest, isCuda, reference, requireDevice } from '../support/opBench.js';

/** Greedy and seeded, with and without penalties, short and long: together they fill steps of every kind. */
const company: Work[] = [
  { prompt: promptOf(5, 1), maxTokens: 20 },
  { prompt: promptOf(1, 2), maxTokens: 30, temperature: 1, seed: 7 },
  { prompt: promptOf(40, 3), maxTokens: 12, temperature: 0.8, topP: 0.9, seed: 8, choice: 2 },
  { prompt: promptOf(70, 4), maxTokens: 9, promptLogprobs: 3 },
  { prompt: promptOf(17, 5), maxTokens: 25, temperature: 1.2, topK: 40, seed: 9, repetitionPenalty: 1.3 },
  { prompt: promptOf(33, 6), maxTokens: 16, frequencyPenalty: 0.7, presencePenalty: 0.4 },
  { prompt: promptOf(16, 7), maxTokens: 32, temperature: 1, minP: 0.02, seed: 10, logitBias: { 5: 2, 6: -Infinity } },
  // They begin as others do: with two blocks of 16 tokens, with four, and with all but the last token.
  { prompt: [...promptOf(40, 3).slice(0, 33), 7], maxTokens: 8, presencePenalty: 1, priority: -1 },
  { prompt: [...promptOf(70, 4).slice(0, 65), 8], maxTokens: 8, temperature: 1, seed: 11, priority: 1 },
  { prompt: promptOf(33, 6), maxTokens: 8, repetitionPenalty: 1.2, priority: -1 },
];

/** @returns also how often a sequence that had begun to answer was found without its blocks */
function together(options: EngineBenchOptions): Promise<{ outcomes: Outcome[]; putBack: number }> {
  return withEngine(folder, options, async (bench) => {
    let putBack = 0;
    const onToken = () => {
      for (const { sequence, outcome } of running)
        if (outcome.tokens.length > 0 && sequence.blocks.length === 0 && !sequence.ended) putBack++;
    };
    const running = company.map(({ prompt, ...given }) => bench.submit(prompt, { ...given, onToken }));
    return { outcomes: await Promise.all(running.map(({ done }) => done)), putBack };
  });
}

/** Tokens, and the bits of the 20 largest log-probabilities at every step: a logit that differs shows. */
function assertSame(actual: Outcome[], expected: Outcome[]): void {
  for (const [i, outcome] of actual.entries()) assert.deepStrictEqual(outcome, expected[i], `sequence ${i}`);
}

describe('engine', () => {
  // On CUDA the order of sums depends on the step.
  const whoseBitsAreTheSameInCompany = devicesUnderTest.filter(({ name, threads }) => name === 'cpu' && threads === 2);
  for (const { title, name: device, simd, ...rest } of [reference, ...whoseBitsAreTheSameInCompany])
    describe(title, () => {
      const on = simd === undefined ? { device } : { device, simd };
      let expected: Outcome[];
      before(async function () {
        requireDevice(this, { title, name: device, ...(simd && { simd }), ...rest });
        expected = await withEngine(folder, on, (bench) => oneByOne(bench, company));
        for (const [i, { tokens, ends }] of expected.entries()) {
          assert.equal(tokens.length, company[i]!.maxTokens);
          assert.deepEqual(ends, ['length']);
        }
      });

      const variations: [how: string, options: EngineBenchOptions, cacheIsTight?: boolean][] = [
        ['in company', {}],
        ['without replay of captured steps', { capture: false }],
        ['with steps enqueued while others are computed', { stepsAhead: 1 }],
        ['with two steps enqueued while others are computed', { stepsAhead: 2, maxSequences: 5 }],
        ['two at a time', { maxSequences: 2 }],
        ['with prompts cut into chunks', { maxSequences: 8, stepTokens: 8 }],
        ['with prompts cut into single tokens', { maxSequences: 1, stepTokens: 1 }],
        ['with a cache so small that sequences give up theirs', { contextLength: 96, cacheTokens: 96 }, true],
        [
          'with all of that',
          { contextLength: 96, cacheTokens: 96, maxSequences: 5, stepTokens: 5, capture: false },
          true,
        ],
        [
          'with a small cache and steps enqueued while others are computed',
          { contextLength: 96, cacheTokens: 96, maxSequences: 3, stepTokens: 7, stepsAhead: 1 },
          true,
        ],
      ];
      for (const [how, options, cacheIsTight = false] of variations)
        it(`gives the same bits ${how}`, async () => {
          const { outcomes, putBack } = await together({ ...on, ...options });
          assertSame(outcomes, expected);
          assert.equal(putBack > 0, cacheIsTight, `found without blocks: ${putBack}`);
        });
    });

  for (const device of devicesUnderTest.filter(isCuda))
    describe(device.title, () => {
      before(function () {
        requireDevice(this, device);
      });

      it('gives the same bits when captured steps are replayed, and when the same steps run again', async () => {
        const on = { device: device.name };
        const { outcomes } = await together(on);
        assertSame((await together({ ...on, capture: false })).outcomes, outcomes);
        assertSame((await together(on)).outcomes, outcomes);
      });

      it('returns all memory, captured steps included', () =>
        withEngine(folder, { device: device.name }, async (bench) => {
          await Promise.all([submit(bench, company[0]!), submit(bench, company[1]!)]);
          await bench.engine.dispose();
          await bench.weights.dispose();
          assert.equal(bench.device.describe().allocatedBytes, 0);
        }));
    });

  describe('prompts', () => {
    it('give the same logits and log-probabilities whole, in chunks, and in company', async () => {
      const prompt = promptOf(150, 11);
      const collect = (options: EngineBenchOptions, beside: number) =>
        withEngine(folder, options, async (bench) => {
          const others = promptOf(beside, 12).map((token) => submit(bench, { prompt: [token], maxTokens: 40 }));
          const rows = await logitsOf(bench, prompt);
          await Promise.all(others);
          return rows;
        });
      const whole = await collect({}, 0);
      assert.equal(whole.length, 150 * vocabularySize);
      for (const [options, beside] of [
        [{ stepTokens: 16 }, 0],
        [{ stepTokens: 16, stepsAhead: 1 }, 0],
        [{ stepTokens: 24, stepsAhead: 2 }, 5],
        [{ stepTokens: 24 }, 5],
        [{ contextLength: 160, cacheTokens: 160 }, 3],
        // The others grow while the prompt is computed, and take its blocks.
        [{ contextLength: 160, cacheTokens: 208, stepTokens: 8, maxSequences: 4 }, 3],
      ] as const)
        assert.deepStrictEqual(await collect(options, beside), whole, JSON.stringify(options));
    });
  });

  describe('abort', () => {
    /** All of the cache, with every block that was lent out back. */
    const everything = { prompt: promptOf(60, 20), maxTokens: 4 };
    const tight = { contextLength: 64, cacheTokens: 64, stepTokens: 16 };

    const moments: [string, (bench: EngineBench) => Promise<Outcome>][] = [
      [
        'before the first step',
        (bench) => {
          const { sequence, done } = bench.submit(promptOf(20, 21));
          bench.engine.abort(sequence);
          return done;
        },
      ],
      [
        'while its prompt is computed',
        (bench) => {
          const onPrompt = () => {
            assert.ok(running.sequence.pending > 16, 'the prompt takes several steps');
            bench.engine.abort(running.sequence);
          };
          const running = bench.submit(promptOf(60, 22), { maxTokens: 4, promptLogprobs: 0, onPrompt });
          return running.done;
        },
      ],
      [
        'while it generates, from its own listener',
        (bench) => {
          const onToken = (count: number) => {
            if (count === 3) bench.engine.abort(running.sequence);
          };
          const running = bench.submit(promptOf(20, 23), { maxTokens: 40, onToken });
          return running.done;
        },
      ],
      [
        'while a step is under way',
        async (bench) => {
          const { sequence, done, outcome } = bench.submit(promptOf(20, 24), { maxTokens: 40 });
          while (outcome.tokens.length === 0) await new Promise(setImmediate);
          bench.engine.abort(sequence);
          return done;
        },
      ],
    ];
    for (const [moment, start] of moments)
      it(`${moment} ends it once and frees its blocks`, () =>
        withEngine(folder, tight, async (bench) => {
          const outcome = await start(bench);
          const heard = outcome.tokens.length;
          const after = await submit(bench, everything);
          assert.deepEqual(outcome.ends, ['abort']);
          assert.equal(outcome.tokens.length, heard, 'no token comes after the end');
          assert.deepEqual(after.ends, ['length']);
          assert.deepEqual(after.tokens, await aloneTokens(everything));
        }));

    it('of a sequence that has ended does nothing', () =>
      withEngine(folder, tight, async (bench) => {
        const { sequence, done, outcome } = bench.submit([1], { maxTokens: 1 });
        await done;
        bench.engine.abort(sequence);
        assert.deepEqual(outcome.ends, ['length']);
      }));
  });

  describe('an error on the device', () => {
    const poison = { prompt: [3, vocabularySize + 5, 4], maxTokens: 4 };

    it('fails the sequences of its step by name, and the engine goes on', () =>
      withEngine(folder, {}, async (bench) => {
        const innocent = company[4]!;
        const [failed, beside] = await Promise.all([submit(bench, poison), submit(bench, innocent)]);
        for (const { ends, tokens } of [failed, beside]) {
          assert.deepEqual(tokens, []);
          assertDeviceError(ends);
        }
        for (const work of [innocent, company[0]!]) {
          const after = await submit(bench, work);
          assert.deepEqual(after.ends, ['length']);
          assert.deepEqual(after.tokens, await aloneTokens(work));
        }
      }));

    it('in the midst of others costs no blocks and leaves later sequences intact', () =>
      withEngine(folder, { contextLength: 96, cacheTokens: 96 }, async (bench) => {
        let failed: Promise<Outcome> | undefined;
        const onToken = (count: number) => {
          if (count === 5) failed = submit(bench, poison);
        };
        const first = await bench.submit(promptOf(30, 30), { maxTokens: 40, onToken }).done;
        assertDeviceError(first.ends);
        assertDeviceError((await failed!).ends);
        const everything = { prompt: promptOf(90, 31), maxTokens: 6 };
        assert.deepEqual((await submit(bench, everything)).tokens, await aloneTokens(everything));
      }));
  });

  describe('refuses', () => {
    const faults: [string, number[], number, RegExp][] = [
      ['a prompt and output longer than the context', promptOf(60, 40), 5, /60.*5.*64/],
      ['a prompt longer than the context', promptOf(65, 41), 0, /65.*64/],
      ['an empty prompt', [], 5, /prompt/],
    ];
    for (const [what, prompt, maxTokens, words] of faults)
      it(`${what}, which would wait for ever`, () =>
        withEngine(folder, { contextLength: 64, cacheTokens: 64 }, async (bench) => {
          const request = { ...bench.submit([1]).sequence.request, prompt, maxTokens };
          const unheard = () => false;
          const listener = { onToken: unheard, onEnd: unheard, onError: unheard };
          assert.throws(() => bench.engine.submit(request, listener), words);
        }));
  });

  it('ends what runs and what waits with abort when it is disposed, and returns its memory', async () => {
    const bench = await EngineBench.load(folder, { maxSequences: 1 });
    const running = [promptOf(9, 50), promptOf(9, 51), promptOf(9, 52)].map((prompt) =>
      bench.submit(prompt, { maxTokens: 100, repetitionPenalty: 1.1, logitBias: { 1: 1 } }),
    );
    while (running[0]!.outcome.tokens.length < 2) await new Promise(setImmediate);
    await bench.engine.dispose();
    for (const { outcome } of running) assert.deepEqual(outcome.ends, ['abort']);
    assert.equal(bench.device.describe().allocatedBytes, bench.weights.byteLength);
    assert.throws(() => bench.submit([1]), { code: 'disposed' });
    await bench.dispose();
  });
});

function assertDeviceError(ends: Outcome['ends']): void {
  assert.equal(ends.length, 1);
  const [error] = ends;
  assert.ok(error instanceof Qwen2Error, String(error));
  assert.equal(error.code, 'invalid_argument');
  for (const words of ['embedding', `token id ${vocabularySize + 5}`, `${vocabularySize}`])
    assert.ok(error.message.includes(words), `"${error.message}" lacks "${words}"`);
}

/** What a sequence generates in an engine of its own. */
const aloneTokens = (work: Work): Promise<number[]> =>
  withEngine(folder, {}, async (bench) => (await submit(bench, work)).tokens);

/** The logits of a prompt's tokens, put together from the pieces in which they come. */
function logitsOf(bench: EngineBench, prompt: readonly number[]): Promise<Float32Array> {
  const rows = new Float32Array(prompt.length * vocabularySize).fill(Number.NaN);
  const { parameters } = bench.submit([1], { maxTokens: 1, promptLogprobs: 2 }).sequence.request;
  return new Promise((resolve, reject) => {
    bench.engine.submit(
      { prompt, parameters, stopTokens: new Set(), maxTokens: 0, priority: 0, choice: 0 },
      {
        onPromptLogits: (first, part) => {
          assert.ok(Number.isNaN(rows[first * vocabularySize]), `row ${first} comes once`);
          rows.set(part, first * vocabularySize);
        },
        onToken: () => false,
        onEnd: () => resolve(rows),
        onError: reject,
      },
    );
  });
}
