import assert from 'node:assert/strict';
import type { SequenceListener, SequenceRequest } from '../../lib/engine/sequence.js';
import { type EngineBench, withEngine } from '../support/engineBench.js';
import { engineFolder, promptOf, start, submit, type Work } from '../support/engineWork.js';

const bug = new Error('a bug of the caller');
const company: Work[] = [
  { prompt: promptOf(12, 1), maxTokens: 12 },
  { prompt: promptOf(30, 2), maxTokens: 9, temperature: 1, seed: 2 },
];
/** All of the cache. */
const everything: Work = { prompt: promptOf(92, 3), maxTokens: 4 };
const limits = { contextLength: 96, cacheTokens: 96, stepTokens: 16 };

/** What becomes uncaught while `body` runs, and the moment after. */
async function uncaughtDuring(body: () => Promise<void>): Promise<unknown[]> {
  const uncaught: unknown[] = [];
  const others = process.listeners('uncaughtException');
  process.removeAllListeners('uncaughtException');
  process.on('uncaughtException', (error) => uncaught.push(error));
  try {
    await body();
    await new Promise(setImmediate);
  } finally {
    process.removeAllListeners('uncaughtException');
    for (const listener of others) process.on('uncaughtException', listener);
  }
  return uncaught;
}

/** A request with prompt logits and log-probabilities, and a listener that does nothing but what is given. */
function submitWith(bench: EngineBench, given: Partial<SequenceListener>): void {
  const { parameters } = bench.submit([1], { maxTokens: 1, promptLogprobs: 2 }).sequence.request;
  const request: SequenceRequest = {
    prompt: promptOf(40, 4),
    parameters,
    stopTokens: new Set(),
    maxTokens: 5,
    priority: 0,
    choice: 0,
  };
  bench.engine.submit(request, { onToken: () => false, onEnd: () => {}, onError: () => {}, ...given });
}

describe('a listener that throws', () => {
  const fault = () => {
    throw bug;
  };
  let alone: number[][];
  before(() =>
    withEngine(engineFolder, {}, async (bench) => {
      alone = [];
      for (const work of [...company, everything]) alone.push((await submit(bench, work)).tokens);
    }),
  );

  /** Runs `during` beside others, which must not notice, and asks for the whole cache afterwards. */
  const beside = (stepsAhead: number, during: (bench: EngineBench) => Promise<void>) =>
    withEngine(engineFolder, { ...limits, stepsAhead }, async (bench) => {
      const others = company.map((work) => start(bench, work).done);
      await during(bench);
      const outcomes = await Promise.all(others);
      outcomes.push(await submit(bench, everything));
      assert.deepEqual(
        outcomes.map(({ tokens }) => tokens),
        alone,
      );
      for (const { ends } of outcomes) assert.deepEqual(ends, ['length']);
    });

  for (const stepsAhead of [0, 1, 2]) {
    for (const method of ['onToken', 'onPromptLogits', 'onPromptLogprobs'] as const)
      it(`in ${method} ends its own sequence with that error, ${stepsAhead} steps ahead`, () =>
        beside(stepsAhead, async (bench) => {
          let calls = 0;
          const throwing = () => {
            calls++;
            return fault();
          };
          const error = await new Promise((resolve) => {
            submitWith(bench, { [method]: throwing, onError: resolve, onEnd: resolve });
          });
          assert.equal(error, bug);
          assert.equal(calls, 1, 'it hears of nothing more');
        }));

    for (const method of ['onEnd', 'onError'] as const)
      it(`in ${method} is an uncaught exception, ${stepsAhead} steps ahead`, async () => {
        const onToken = method === 'onError' ? fault : () => false;
        const uncaught = await uncaughtDuring(() =>
          beside(stepsAhead, async (bench) => submitWith(bench, { onToken, [method]: fault })),
        );
        assert.deepEqual(uncaught, [bug]);
      });
  }

  it('of `step` or `end` events is an uncaught exception', async () => {
    let heard = 0;
    const uncaught = await uncaughtDuring(() =>
      beside(1, async (bench) => {
        const count = () => {
          heard++;
          fault();
        };
        bench.engine.events.on('step', count).on('end', count);
      }),
    );
    assert.ok(heard > 10);
    assert.deepEqual(uncaught, new Array(heard).fill(bug));
  });
});
