import assert from 'node:assert/strict';
import { watchEventLoop } from '../support/eventLoop.js';
import { nullEngine, stepMicroseconds, submitTo } from '../support/nullEngine.js';

describe('what the JavaScript thread does for a step', () => {
  it('is as much as it has sequences, however many wait', async () => {
    const medianWith = async (waiting: number) => {
      const times = await stepMicroseconds(16, waiting, 500);
      return times.sort((a, b) => a - b)[250]!;
    };
    await medianWith(0);
    const [few, many] = [await medianWith(0), await medianWith(20_000)];
    assert.ok(many < 3 * few + 100, `${many} µs with 20,000 waiting, ${few} µs with none`);
  }).timeout(60_000);

  it('is few calls of the addon, however many sequences generate', async () => {
    for (const sequences of [1, 8]) {
      const { engine, stream } = await nullEngine({ maxSequences: sequences, contextLength: 64, cacheTokens: 4096 });
      const steps: string[][] = [];
      engine.events.on('step', () => steps.push(stream.calls.splice(0)));
      for (let i = 0; i < sequences; i++) submitTo(engine, i, { maxTokens: 30 });
      await new Promise((resolve) => engine.events.on('step', () => steps.length > 20 && resolve(steps)));
      await engine.dispose();
      // Inputs of the step; the decoder; sampling parameters; and what was chosen. Now and then a block, as well.
      const least = steps.slice(2).sort((a, b) => a.length - b.length)[0];
      assert.deepEqual(least, ['upload', 'launch', 'upload', 'sample', 'download']);
    }
  });

  it('leaves the event loop its turns, even if every step is through at once', async () => {
    const options = { maxSequences: 1, contextLength: 20_032, cacheTokens: 20_032 };
    const { engine } = await nullEngine(options, { atOnce: true });
    submitTo(engine, 0, { maxTokens: 20_000 });
    const stop = watchEventLoop();
    await new Promise((resolve) => engine.events.once('end', resolve));
    const { turns } = stop();
    await engine.dispose();
    assert.ok(turns > 10, `${turns} turns`);
  }).timeout(60_000);
});
