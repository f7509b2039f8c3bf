import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { loadModel } from '../../lib/generation/loadModel.js';
import type { Model } from '../../lib/generation/model.js';
import { demoFolder } from '../support/checkpoints.js';
import { type DeviceCase, devicesUnderTest, reference, requireDevice } from '../support/opBench.js';

interface Expected {
  greedy: { prompt: string; tokens: number[]; greedy: number[]; text: string; min_margin: number }[];
  book_passages: { start: number; tokens: number; mean_nll: number }[];
}

/**
 * How far bf16 arithmetic may move a logit of this model. bf16 moves the logits of the fixtures, whose depth and spread are
 * alike, by 0.15 at most; a margin of twice that can't turn over.
 */
const bf16LogitError = 0.15;
/** A token's log-probability moves by twice that at most; the mean of 511, whose errors have either sign, by far less. */
const meanTolerance = { f32: 2e-5, bf16: 2 * bf16LogitError * (3 / Math.sqrt(511)) };

describe('the demo model', () => {
  let expected: Expected;
  let book: string;
  before(async () => {
    const folder = join(demoFolder, '..');
    expected = JSON.parse(await readFile(join(folder, 'expected.json'), 'utf8'));
    book = await readFile(join(folder, 'sherlock-holmes.txt'), 'utf8');
  });

  const devices: (DeviceCase & { dtype: 'f32' | 'bf16' })[] = [
    { ...reference, title: 'reference in float32', dtype: 'f32' },
    ...devicesUnderTest.map((device) => ({ ...device, dtype: 'bf16' as const })),
  ];
  for (const { dtype, ...device } of devices)
    describe(device.title, () => {
      let model: Model;
      // A token takes the emulation a tenth of a second.
      const isSlow = device.name === 'cuda-emulated';
      before(async function () {
        requireDevice(this, device);
        const { name, simd, threads } = device;
        model = await loadModel(demoFolder, { device: name, simd, threads, dtype, contextLength: 1024 });
      });
      after(() => model?.dispose());

      it('continues texts as Hugging Face does', async () => {
        for (const { prompt, tokens, greedy, text, min_margin } of expected.greedy.slice(0, isSlow ? 1 : undefined)) {
          const length = isSlow ? 24 : greedy.length;
          assert.ok(min_margin > 2 * bf16LogitError, `the margin of "${prompt}" is too small to hold bf16 to it`);
          assert.deepEqual(await model.tokenizer.encode(prompt), tokens);
          const result = await model.generate(prompt, { temperature: 0, maxTokens: length }).result();
          assert.deepEqual(result.tokens, greedy.slice(0, length));
          assert.ok(text.startsWith(result.text) && (isSlow || result.text === text), result.text);
        }
      });

      it('finds passages of its book as probable as Hugging Face does', async () => {
        for (const { start, tokens, mean_nll } of expected.book_passages.slice(0, isSlow ? 1 : undefined)) {
          const ids = (await model.tokenizer.encode(book.slice(start, start + 4 * tokens))).slice(0, tokens);
          assert.equal(ids.length, tokens);
          const { sum } = await model.score({ tokens: ids });
          const mean = -sum / (tokens - 1);
          const error = Math.abs(mean - mean_nll);
          assert.ok(error <= meanTolerance[dtype], `mean negative log-likelihood ${mean}, expected ${mean_nll}`);
        }
      });
    });
});
