import assert from 'node:assert/strict';
import { Histogram } from '../../lib/engine/statistics.js';
import { type EndEvent, loadModel, type Model, type StepEvent } from '../../lib/index.js';
import { demoFolder } from '../support/checkpoints.js';

describe('histogram', () => {
  it('knows quantiles to a fifth, and sums exactly', () => {
    const histogram = new Histogram();
    for (let i = 1; i <= 1000; i++) histogram.add(i / 1000);
    const { count, sum, p50, p99, buckets } = histogram.snapshot();
    assert.equal(count, 1000);
    assert.ok(Math.abs(sum - 500.5) < 1e-9);
    assert.ok(p50 >= 0.5 && p50 < 0.5 * 1.19, `${p50}`);
    assert.ok(p99 >= 0.99 && p99 < 0.99 * 1.19, `${p99}`);
    assert.equal(
      buckets.reduce((total, bucket) => total + bucket.count, 0),
      1000,
    );
    for (const [i, { upTo }] of buckets.entries()) assert.ok(i === 0 || upTo > buckets[i - 1]!.upTo);
  });

  it('of nothing, and of what is shorter than any bucket', () => {
    const histogram = new Histogram();
    assert.deepEqual(histogram.snapshot(), { count: 0, sum: 0, buckets: [], p50: 0, p99: 0 });
    histogram.add(0);
    assert.deepEqual(histogram.snapshot().buckets, [{ upTo: 1e-4, count: 1 }]);
  });
});

describe('statistics', () => {
  let model: Model;
  before(async () => {
    model = await loadModel(demoFolder, { device: 'cpu', contextLength: 128, cacheTokens: 512, maxSequences: 4 });
  });
  after(() => model.dispose());

  it('count what was computed, from the first to the last token', async () => {
    const steps: StepEvent[] = [];
    const ends: EndEvent[] = [];
    model.events.on('step', (event) => steps.push(event)).on('end', (event) => ends.push(event));
    const tokens = Array.from({ length: 40 }, (_, i) => i + 5);
    const generate = (last: number) =>
      model.generate({ tokens: [...tokens, last] }, { maxTokens: 10, ignoreEos: true });
    const during = Promise.all([1, 2, 3, 4, 5, 6].map((last) => generate(last).result()));
    await new Promise<void>((resolve) => model.events.once('step', () => resolve()));
    const busy = model.stats();
    assert.equal(busy.running + busy.waiting, 6);
    assert.ok(busy.cacheInUse > 0 && busy.cacheInUse <= 1);
    await during;
    const stats = model.stats();
    assert.deepEqual([stats.running, stats.waiting, stats.cacheInUse], [0, 0, 0]);
    assert.deepEqual([stats.promptTokens, stats.completionTokens], [6 * 41, 60]);
    assert.deepEqual([stats.timeToFirstToken.count, stats.interTokenLatency.count], [6, 54]);
    // Two whole blocks of 16 of five prompts were the first one's.
    assert.equal(stats.prefixHitRate, (5 * 32) / (6 * 41));
    assert.ok(stats.tokensPerSecond > 0);
    assert.equal(stats.steps, steps.length);
    const computed = steps.reduce((sum, step) => sum + step.tokens, 0);
    assert.equal(computed, 6 * 41 - 5 * 32 + 6 * 9, 'prompts but for what was shared, and every token but the last');
    assert.equal(ends.length, 6);
    for (const { finishReason, promptTokens, completionTokens, timeToFirstToken, seconds } of ends) {
      assert.deepEqual([finishReason, promptTokens, completionTokens], ['length', 41, 10]);
      assert.ok(timeToFirstToken! > 0 && timeToFirstToken! <= seconds);
    }
  });
});
