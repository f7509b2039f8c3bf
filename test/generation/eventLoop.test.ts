import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
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

type Delays = ReturnType<ReturnType<typeof watchEventLoop>>;

async function delaysDuring(work: () => Promise<unknown>): Promise<Delays> {
  const stop = watchEventLoop();
  await work();
  return stop();
}

/** Of loading a model so many times, where memory is not poisoned. */
async function delaysOfLoading(source: string | RandomModel, how: LoadOptions, loads: number): Promise<Delays> {
  const script = fileURLToPath(new URL('../support/loadDelays.js', import.meta.url));
  const args = [script, ...[source, how, loads].map((argument) => JSON.stringify(argument))];
  const env = { ...process.env, QWEN2_POISON: '0' };
  const { stdout } = await promisify(execFile)(process.execPath, args, { env });
  return JSON.parse(stdout);
}

async function assertFree(what: string, measure: () => Promise<Delays>): Promise<void> {
  const percentiles: number[] = [];
  for (let i = 0; i < tries; i++) {
    const { turns, p99, max } = await measure();
    console.log(`        ${what}: ${turns} turns, p99 ${p99.toFixed(1)} ms, max ${max.toFixed(1)} ms`);
    if (p99 < allowedDelay) return;
    percentiles.push(p99);
  }
  assert.fail(`the event loop's p99 was ${percentiles.map((p99) => p99.toFixed(1)).join(', ')} ms`);
}

describe('the event loop stays free', () => {
  const int4: LoadOptions = { ...options, quantize: 'int4', lmHead: 'int8' };
  for (const { title, source, how, prompt, loads } of [
    // Several short loads: of a single one, a hundredth is no timer.
    { title: 'the demo model', source: demoFolder, how: options, prompt: 300, loads: 8 },
    { title: 'the demo model in int4', source: demoFolder, how: int4, prompt: 300, loads: 8 },
    { title: 'layers and vocabulary of Qwen2-0.5B', source: wide, how: options, prompt: 100, loads: 2 },
    { title: 'layers and vocabulary of Qwen2-0.5B in int4', source: wide, how: int4, prompt: 100, loads: 2 },
  ])
    describe(title, () => {
      let model: Model;
      before(async () => {
        model = await loadModel(source, how);
      });
      after(() => model.dispose());

      it('while it loads', () => assertFree('loading', () => delaysOfLoading(source, how, loads)));

      it('while it computes prompts and generates', () => {
        const tokens = new Array<number>(prompt).fill(3);
        const given = { maxTokens: 24, ignoreEos: true, temperature: 1, frequencyPenalty: 0.5, logprobs: 5 };
        const generate = (seed: number) => model.generate({ tokens }, { ...given, seed }).result();
        return assertFree('generating', () => delaysDuring(() => Promise.all([1, 2, 3].map(generate))));
      });

      it('while it scores', () => {
        const tokens = new Array<number>(prompt).fill(3);
        return assertFree('scoring', () => delaysDuring(() => model.score({ tokens })));
      });
    });
});
