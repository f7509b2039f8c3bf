import assert from 'node:assert/strict';
import { qwen2Shapes } from '../../lib/checkpoint/shapes.js';
import { type LoadOptions, loadModel, type RandomModel } from '../../lib/generation/loadModel.js';
import type { Model } from '../../lib/generation/model.js';
import { demoFolder } from '../support/checkpoints.js';
import { watchEventLoop } from '../support/eventLoop.js';

/** Milliseconds within which 99 of 100 turns of the event loop come while a model works. */
const allowedDelay = 5;
/** What else runs on the machine evicts caches and takes locks: the best of so many tries is the model's own. */
const tries = 3;

/** A thread fewer than a small machine has cores: what is measured is the event loop, not who gets the core. */
const options: LoadOptions = { device: 'cpu', threads: 1, contextLength: 512, cacheTokens: 2048 };

/** The 0.5B with its layers cut to two: its vocabulary of 151936 is what may cost the JavaScript thread time. */
const wide: RandomModel = { config: { ...qwen2Shapes['qwen2-0.5b'], num_hidden_layers: 2 }, weights: 'random' };

async function assertFree(what: string, work: () => Promise<unknown>): Promise<void> {
  const percentiles: number[] = [];
  for (let i = 0; i < tries; i++) {
    const stop = watchEventLoop();
    await work();
    const { turns, p99, max } = stop();
    console.log(`        ${what}: ${turns} turns, p99 ${p99.toFixed(1)} ms, max ${max.toFixed(1)} ms`);
    if (p99 < allowedDelay) return;
    percentiles.push(p99);
  }
  assert.fail(`the event loop's p99 was ${percentiles.map((p99) => p99.toFixed(1)).join(', ')} ms`);
}

describe('the event loop stays free', () => {
  for (const { title, source, prompt, loads } of [
    // Several short loads: of a single one, a hundredth is no timer.
    { title: 'the demo model', source: demoFolder, prompt: 300, loads: 8 },
    { title: 'layers and vocabulary of Qwen2-0.5B', source: wide, prompt: 100, loads: 1 },
  ])
    describe(title, () => {
      let model: Model;
      before(async () => {
        model = await loadModel(source, options);
      });
      after(() => model.dispose());

      it('while it loads', () =>
        assertFree('loading', async () => {
          for (let i = 0; i < loads; i++) await (await loadModel(source, options)).dispose();
        }));

      it('while it computes prompts and generates', () =>
        assertFree('generating', () =>
          Promise.all(
            [1, 2, 3].map((seed) =>
              model
                .generate(
                  { tokens: new Array<number>(prompt).fill(seed) },
                  { maxTokens: 24, ignoreEos: true, temperature: 1, frequencyPenalty: 0.5, logprobs: 5, seed },
                )
                .result(),
            ),
          ),
        ));

      it('while it scores', () => assertFree('scoring', () => model.score({ tokens: new Array(prompt).fill(3) })));
    });
});
