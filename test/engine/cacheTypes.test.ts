import assert from 'node:assert/strict';
import { loadModel } from '../../lib/generation/loadModel.js';
import { demoFolder } from '../support/checkpoints.js';
import { devicesUnderTest, isCuda, reference, requireDevice } from '../support/opBench.js';

const passage =
  'To Sherlock Holmes she is always the woman. I have seldom heard him mention her under any other name. In his eyes she ' +
  'eclipses and predominates the whole of her sex.';
const opening = 'To Sherlock Holmes she is always';
const sequel = ' the woman. I have seldom heard him mention her under any other name.';

for (const device of [reference, ...devicesUnderTest])
  for (const dtype of ['fp8', 'int8'] as const)
    describe(`a KV cache of ${dtype} on ${device.title}`, () => {
      before(function () {
        requireDevice(this, device);
      });

      const load = (kvCache: object) =>
        loadModel(demoFolder, {
          device: device.name,
          simd: device.simd,
          threads: device.threads,
          contextLength: 96,
          stepTokens: 32,
          maxSequences: 4,
          kvCache,
        });

      it('takes little more than half the memory, and changes probabilities little', async () => {
        const [exact, rounded] = [await load({}), await load({ dtype })];
        try {
          assert.equal(
            rounded.memory.cacheBytes / exact.memory.cacheBytes,
            (exact.config.headDim + 4) / (2 * exact.config.headDim),
          );
          const [before, after] = [await exact.score(passage), await rounded.score(passage)];
          const change = (after.sum - before.sum) / (before.tokens.length - 1);
          assert.ok(Math.abs(change) < 0.02 && change !== 0, `${change} a token`);
        } finally {
          await Promise.all([exact.dispose(), rounded.dispose()]);
        }
      });

      it('gives a sequence the same tokens alone, beside others, and after a prefix that was found', async function () {
        if (isCuda(device)) return this.skip();
        const model = await load({ dtype });
        try {
          const options = { temperature: 0, maxTokens: 18, logprobs: 1 };
          const alone = await model.generate(opening, options).result();
          assert.ok(sequel.startsWith(alone.text) && alone.text.length > 50, alone.text);
          const others = [passage, `${opening} not`, opening].map((prompt) => model.generate(prompt, options).result());
          assert.deepEqual((await Promise.all(others))[2], alone);
          assert.ok(model.stats().prefixHitRate > 0);
        } finally {
          await model.dispose();
        }
      });
    });
