import assert from 'node:assert/strict';
import {
  deviceError,
  type EngineBench,
  type EngineBenchOptions,
  type Outcome,
  withEngine,
} from '../support/engineBench.js';
import { assertAsAlone, engineFolder, oneByOne, promptOf, start, submit, type Work } from '../support/engineWork.js';
import { type DeviceCase, devicesUnderTest, isCuda, reference, requireDevice } from '../support/opBench.js';

/** Generating when the interruption comes. */
const victims: Work[] = [
  { prompt: promptOf(5, 1), maxTokens: 20, repetitionPenalty: 1.2 },
  { prompt: promptOf(33, 2), maxTokens: 20, temperature: 1, seed: 3 },
];

/** They join in the midst of it: with a history on the device, and with a prompt that takes several steps and is told of. */
const late: Work[] = [
  { prompt: promptOf(9, 4), maxTokens: 6, frequencyPenalty: 0.9, presencePenalty: 0.3 },
  { prompt: promptOf(50, 5), maxTokens: 4, promptLogprobs: 2 },
];

/** For these there is a place only later; one begins as a victim does. */
const waiting: Work[] = [
  { prompt: [...promptOf(33, 2).slice(0, 32), 6], maxTokens: 5 },
  { prompt: promptOf(3, 7), maxTokens: 3, temperature: 1, seed: 8, logprobs: 5 },
];

/** A cache that the work in `everything` fills to the last block: one that is lost would be missed. */
const limits = { contextLength: 144, cacheTokens: 144, stepTokens: 16, maxSequences: 4 };
const everything: Work = { prompt: promptOf(140, 9), maxTokens: 4 };
const all = [...victims, ...late, ...waiting, everything];

const devices = [reference, ...devicesUnderTest.filter((device) => device.threads === 2 || isCuda(device))];

for (const device of devices)
  describe(`engine on ${device.title}, interrupted`, () => {
    let alone: Map<Work, Outcome>;
    before(async function () {
      this.timeout(300_000);
      requireDevice(this, device);
      const outcomes = await withEngine(engineFolder, onDevice(device), (bench) => oneByOne(bench, all));
      alone = new Map(all.map((work, i) => [work, outcomes[i]!]));
    });

    const assertUnchanged = (work: Work, outcome: Outcome) =>
      assertAsAlone(device, outcome, alone.get(work)!, `work ${all.indexOf(work)}`);

    /** It has what it would have had, up to where it was ended. */
    const assertCutShort = (work: Work, { tokens, logprobs, prompt, ends }: Outcome) => {
      const whole = alone.get(work)!;
      assert.ok(tokens.length < whole.tokens.length, 'it was interrupted');
      const upTo = { tokens: whole.tokens.slice(0, tokens.length), logprobs: whole.logprobs.slice(0, tokens.length) };
      const expected = { ...upTo, prompt: whole.prompt.slice(0, prompt.length), ends };
      assertAsAlone(device, { tokens, logprobs, prompt, ends }, expected, `work ${all.indexOf(work)}`);
    };

    const assertNothingLost = async (bench: EngineBench) => {
      const { running, waiting, cacheInUse } = bench.engine.stats();
      assert.deepEqual({ running, waiting, cacheInUse }, { running: 0, waiting: 0, cacheInUse: 0 });
      assertUnchanged(everything, await submit(bench, everything));
    };

    for (const stepsAhead of [0, 1, 2])
      describe(`${stepsAhead} steps ahead`, () => {
        const options = { ...onDevice(device), ...limits, stepsAhead };

        const failures: { what: string; capture: boolean; arm(bench: EngineBench, join: () => void): void }[] = [
          {
            what: 'in the midst of the decoder',
            capture: false,
            arm: (bench, join) => bench.failBefore('attention', join),
          },
          {
            what: 'when tokens are chosen',
            capture: true,
            arm: (bench, join) => bench.failBefore('sample', join),
          },
          {
            what: 'and in the step behind it, too',
            capture: true,
            arm: (bench, join) =>
              bench.failBefore('sample', () => {
                join();
                if (stepsAhead > 0) bench.failBefore('sample');
              }),
          },
        ];
        for (const { what, capture, arm } of failures)
          it(`a device error ${what} fails the sequences of its step and no others`, () =>
            withEngine(engineFolder, { ...options, capture }, async (bench) => {
              let others: Promise<Outcome>[] = [];
              const join = () => {
                others = [...late, ...waiting].map((work) => submit(bench, work));
              };
              const onToken = (count: number) => {
                if (count === 3) arm(bench, join);
              };
              const [first, ...rest] = victims;
              const failing = [start(bench, first!, { onToken }).done, ...rest.map((work) => submit(bench, work))];
              for (const [i, outcome] of (await Promise.all(failing)).entries()) {
                assert.equal(outcome.ends.length, 1);
                assert.throws(() => {
                  throw outcome.ends[0];
                }, deviceError);
                assertCutShort(victims[i]!, outcome);
              }
              const outcomes = await Promise.all(others);
              for (const [i, work] of [...late, ...waiting].entries()) assertUnchanged(work, outcomes[i]!);
              await assertNothingLost(bench);
            })).timeout(60_000);

        const aborts: { when: string; work: Work; at: 'onPrompt' | 'onToken'; calls: number }[] = [
          { when: 'in the midst of its prompt', work: late[1]!, at: 'onPrompt', calls: 2 },
          { when: 'in the midst of its answer', work: victims[0]!, at: 'onToken', calls: 4 },
          { when: 'with its last token', work: victims[1]!, at: 'onToken', calls: victims[1]!.maxTokens! },
        ];
        for (const { when, work, at, calls } of aborts)
          it(`a sequence that is aborted ${when} leaves its company as it was`, () =>
            withEngine(engineFolder, options, async (bench) => {
              let left = calls;
              const abort = () => {
                if (--left === 0) bench.engine.abort(aborted.sequence);
              };
              const company = all.filter((other) => other !== work && other !== everything);
              const before = company.slice(0, 2).map((other) => submit(bench, other));
              const aborted = start(bench, work, { [at]: abort });
              const outcomes = await Promise.all([...before, ...company.slice(2).map((other) => submit(bench, other))]);
              const outcome = await aborted.done;
              assert.deepEqual(outcome.ends, ['abort']);
              if (at === 'onPrompt') assert.deepEqual(outcome.tokens, []);
              else assert.equal(outcome.tokens.length, calls, 'no token comes after the end');
              for (const [i, other] of company.entries()) assertUnchanged(other, outcomes[i]!);
              await assertNothingLost(bench);
            })).timeout(60_000);
      });
  });

function onDevice({ name: device, simd }: DeviceCase): EngineBenchOptions {
  return simd === undefined ? { device } : { device, simd };
}
