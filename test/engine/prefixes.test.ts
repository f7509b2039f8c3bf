import assert from 'node:assert/strict';
import { type EngineBench, type EngineBenchOptions, withEngine } from '../support/engineBench.js';
import { assertAsAlone, engineFolder, oneByOne, promptOf, start, submit, type Work } from '../support/engineWork.js';
import { devicesUnderTest, isCuda, reference, requireDevice } from '../support/opBench.js';

const blockSize = 16;
const limits: EngineBenchOptions = { contextLength: 128, cacheTokens: 512, stepTokens: 24 };

/** Counts the tokens that steps compute. */
function countComputed(bench: EngineBench): () => number {
  let computed = 0;
  bench.engine.events.on('step', ({ tokens }) => {
    computed += tokens;
  });
  return () => computed;
}

const devices = [reference, ...devicesUnderTest.filter((device) => device.threads === 2 || isCuda(device))];

for (const device of devices)
  describe(`prompts that begin alike on ${device.title}`, () => {
    const { name, simd } = device;
    const on = { ...limits, device: name, ...(simd && { simd }) };
    before(function () {
      requireDevice(this, device);
    });

    const prompt = promptOf(50, 1);
    const next: { what: string; work: Work; found: number }[] = [
      { what: 'the same prompt', work: { prompt, maxTokens: 6 }, found: 48 },
      { what: 'the same prompt, sampled', work: { prompt, maxTokens: 6, temperature: 1, seed: 2 }, found: 48 },
      { what: 'two blocks of it', work: { prompt: [...prompt.slice(0, 40), 7, 8], maxTokens: 6 }, found: 32 },
      // The last token must be computed, and so its block is.
      { what: 'whole blocks of it and no more', work: { prompt: prompt.slice(0, 48), maxTokens: 6 }, found: 32 },
      { what: 'less than a block of it', work: { prompt: prompt.slice(0, 15), maxTokens: 6 }, found: 0 },
      {
        what: 'its later blocks behind another first one',
        work: { prompt: [...promptOf(16, 9), ...prompt.slice(16)], maxTokens: 6 },
        found: 0,
      },
      {
        what: 'it, to be told of every token',
        work: { prompt, maxTokens: 6, promptLogprobs: 1 },
        found: 0,
      },
    ];
    for (const { what, work, found } of next)
      it(`${what}: ${found} tokens are not computed again, and the answer is as if they were`, async () => {
        const fresh = await withEngine(engineFolder, on, (bench) => submit(bench, work));
        await withEngine(engineFolder, on, async (bench) => {
          await submit(bench, { prompt, maxTokens: 3 });
          const computed = countComputed(bench);
          assertAsAlone(device, await submit(bench, work), fresh, what);
          // A token that is chosen last is never computed.
          assert.equal(computed(), work.prompt.length - found + work.maxTokens! - 1);
          assert.equal(bench.engine.stats().prefixHitRate, found / (prompt.length + work.prompt.length));
        });
      });

    it('share the blocks of the prompt while they go different ways in blocks of their own', async () => {
      const choices = [0, 1, 2, 3].map((choice) => ({ prompt, choice, maxTokens: 16, temperature: 1.5, seed: 5 }));
      const alone = await withEngine(engineFolder, on, (bench) => oneByOne(bench, choices));
      assert.equal(new Set(alone.map(({ tokens }) => tokens.join())).size, 4, 'they differ');
      await withEngine(engineFolder, on, async (bench) => {
        let most = 0;
        const onToken = () => {
          const blocks = running.map(({ sequence }) => sequence.blocks);
          if (blocks.some(({ length }) => length === 0)) return;
          const distinct = new Set(blocks.flat()).size;
          most = Math.max(most, distinct);
          assert.equal(distinct, 3 + blocks.reduce((sum, { length }) => sum + length - 3, 0), 'three are shared');
          const { cacheInUse } = bench.engine.stats();
          assert.equal(Math.round((cacheInUse * limits.cacheTokens!) / blockSize), distinct);
        };
        const running = choices.map((work) => start(bench, work, { onToken }));
        for (const [i, { done }] of running.entries()) assertAsAlone(device, await done, alone[i]!, `choice ${i}`);
        // 66 tokens each, the last one never computed: 5 blocks, of which 3 are the prompt's.
        assert.equal(most, 3 + 4 * 2);
        assert.equal(bench.engine.stats().cacheInUse, 0);
      });
    });
  });
