import assert from 'node:assert/strict';
import { type BatchRequest, generateBatch, loadModel } from '../../lib/index.js';
import { demoFolder } from '../support/checkpoints.js';
import { Random } from '../support/random.js';

const count = 10_000;

/** Short and long, greedy and drawn, with and without penalties; many begin alike. */
function* requests(): Generator<BatchRequest> {
  const random = new Random(9);
  const beginnings = Array.from({ length: 5 }, () => Array.from({ length: 64 }, () => random.integer(3, 2000)));
  for (let i = 0; i < count; i++) {
    const shared = random.pick(beginnings).slice(0, random.integer(0, 64));
    const own = Array.from({ length: random.integer(1, 8) }, () => random.integer(3, 2000));
    yield {
      id: `${i}`,
      prompt: { tokens: [...shared, ...own] },
      maxTokens: random.integer(1, 24),
      temperature: random.integer(0, 1),
      repetitionPenalty: random.integer(0, 9) === 0 ? 1.1 : 1,
      seed: i,
    };
  }
}

describe('ten thousand requests', () => {
  it('come out once each, from memory that does not grow, and leave nothing behind', async () => {
    const model = await loadModel(demoFolder, {
      device: 'cpu',
      contextLength: 128,
      cacheTokens: 1024,
      maxSequences: 48,
    });
    try {
      const seen = new Set<string>();
      let early = 0;
      for await (const { id, error } of generateBatch(model, requests())) {
        assert.equal(error, undefined);
        assert.ok(!seen.has(id), `${id} came twice`);
        seen.add(id);
        if (seen.size === count / 5) early = process.memoryUsage().rss;
      }
      assert.equal(seen.size, count);
      const grown = (process.memoryUsage().rss - early) / 1e6;
      const { running, waiting, cacheInUse, preemptions, prefixHitRate, ...rest } = model.stats();
      const { completionTokens, timeToFirstToken, interTokenLatency } = rest;
      const milliseconds = (seconds: number) => `${(1000 * seconds).toFixed(1)} ms`;
      console.log(
        `        ${completionTokens} tokens; first token p50 ${milliseconds(timeToFirstToken.p50)}, p99 ${milliseconds(timeToFirstToken.p99)}; ` +
          `between tokens p50 ${milliseconds(interTokenLatency.p50)}, p99 ${milliseconds(interTokenLatency.p99)}; ` +
          `${preemptions} put back; ${(100 * prefixHitRate).toFixed(0)}% of prompts found; ${grown.toFixed(1)} MB more memory`,
      );
      assert.deepEqual([running, waiting, cacheInUse], [0, 0, 0]);
      assert.ok(preemptions > 0 && prefixHitRate > 0.3, 'a tight cache and shared beginnings');
      assert.ok(grown < 60, `memory grew by ${grown} MB`);
    } finally {
      await model.dispose();
    }
  }).timeout(600_000);
});
