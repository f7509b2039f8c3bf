import assert from 'node:assert/strict';
import { getEventListeners } from 'node:events';
import type { Generation } from '../../lib/generation/generation.js';
import { loadModel } from '../../lib/generation/loadModel.js';
import type { Model } from '../../lib/generation/model.js';
import { Qwen2Error } from '../../lib/native/errors.js';
import { demoFolder, fixtureFolder } from '../support/checkpoints.js';
import { EngineBench } from '../support/engineBench.js';

const opening = 'To Sherlock Holmes she is always';
const long = { temperature: 0, ignoreEos: true };
const listeners = (signal: AbortSignal) => getEventListeners(signal, 'abort').length;

/** Leaves a generation after some pieces. */
async function take(generation: Generation, pieces: number): Promise<void> {
  for await (const _ of generation) if (--pieces === 0) break;
}

describe('the life of a generation', () => {
  let model: Model;
  before(async () => {
    // One sequence fills the cache: a block that is not given back stops the next.
    model = await loadModel(demoFolder, { device: 'cpu', contextLength: 256, cacheTokens: 256, stepTokens: 32 });
  });
  after(() => model.dispose());

  afterEach('the whole cache is free again', async () => {
    const { finishReason, usage } = await model.generate(opening, long).result();
    assert.equal(finishReason, 'length');
    assert.equal(usage.promptTokens + usage.completionTokens, 256);
  });

  describe('AbortSignal', () => {
    it('that has fired gives an empty result', async () => {
      const generation = model.generate(opening, { ...long, signal: AbortSignal.abort() });
      const { text, tokens, finishReason } = await generation.result();
      assert.deepEqual([text, tokens, finishReason], ['', [], 'abort']);
      for await (const piece of generation) assert.equal(piece.finishReason, 'abort');
    });

    it('that fires while the prompt is encoded gives an empty result', async () => {
      const controller = new AbortController();
      const generation = model.generate(opening.repeat(20_000), { signal: controller.signal });
      controller.abort();
      const { tokens, finishReason, usage } = await generation.result();
      assert.deepEqual([tokens, finishReason, usage.completionTokens], [[], 'abort', 0]);
    });

    it('ends it where it is, with what was made, and every choice of it', async () => {
      const controller = new AbortController();
      const whole = await model.generate(opening, long).result();
      const generation = model.generate(opening, { ...long, n: 3, signal: controller.signal });
      let pieces = 0;
      for await (const _ of generation) if (++pieces === 12) controller.abort(new Error('enough'));
      const { choices, usage } = await generation.result();
      assert.equal(
        usage.completionTokens,
        choices.reduce((sum, { tokens }) => sum + tokens.length, 0),
      );
      assert.ok(usage.completionTokens >= 12 && usage.completionTokens < 100, `${usage.completionTokens} tokens`);
      for (const { text, tokens, finishReason } of choices) {
        assert.equal(finishReason, 'abort');
        assert.deepEqual(tokens, whole.tokens.slice(0, tokens.length));
        assert.equal(text, model.tokenizer.decode(tokens));
      }
    });

    it('keeps no listener when all is done', async () => {
      const { signal } = new AbortController();
      await model.generate(opening, { maxTokens: 3, signal }).result();
      await model.logits([1, 2], { signal });
      await model.score({ tokens: [1, 2] }, { signal });
      await assert.rejects(model.generate({ tokens: [] }, { signal }).result());
      assert.equal(listeners(signal), 0);
    });

    it('rejects logits and score, with its reason as the cause', async () => {
      const tokens = new Array<number>(255).fill(7);
      for (const compute of [
        (signal: AbortSignal) => model.logits(tokens, { signal }),
        (signal: AbortSignal) => model.score({ tokens }, { signal }),
      ]) {
        for (const abort of [
          (controller: AbortController) => controller.abort('why'),
          (controller: AbortController) => void setTimeout(() => controller.abort('why')),
        ]) {
          const controller = new AbortController();
          const computing = compute(controller.signal);
          abort(controller);
          await assert.rejects(computing, { code: 'aborted', cause: 'why' });
          assert.equal(listeners(controller.signal), 0);
        }
        await assert.rejects(compute(AbortSignal.abort('why')), { code: 'aborted', cause: 'why' });
      }
    });
  });

  describe('iteration', () => {
    it('that is left early ends it', async () => {
      const generation = model.generate(opening, long);
      await take(generation, 5);
      const { finishReason, tokens } = await generation.result();
      assert.equal(finishReason, 'abort');
      assert.ok(tokens.length >= 5 && tokens.length < 100);
    });

    it('that throws ends it', async () => {
      const generation = model.generate(opening, long);
      const reading = (async () => {
        for await (const _ of generation) throw new Error('no more');
      })();
      await assert.rejects(reading, { message: 'no more' });
      assert.equal((await generation.result()).finishReason, 'abort');
    });

    it('can be done once, and a second one disturbs neither', async () => {
      const generation = model.generate(opening, { ...long, maxTokens: 10 });
      const first = take(generation, Number.POSITIVE_INFINITY);
      await assert.rejects(take(generation, 1), { code: 'invalid_argument', message: /once.*result\(\)/ });
      await first;
      assert.equal((await generation.result()).tokens.length, 10);
      await assert.rejects(take(generation, 1), { code: 'invalid_argument' });
    });

    it('is not needed', async () => {
      assert.equal((await model.generate(opening, { ...long, maxTokens: 4 }).result()).tokens.length, 4);
    });

    it('hears of errors, and nobody has to', async () => {
      const generation = model.generate({ tokens: [99_999] });
      await assert.rejects(take(generation, 1), { code: 'invalid_argument' });
      model.generate({ tokens: [99_999] });
      await new Promise(setImmediate);
    });
  });
});

describe('dispose', () => {
  it('ends what runs with abort, rejects what computes, and returns all device memory', async () => {
    const bench = await EngineBench.load(demoFolder, { maxSequences: 2 });
    const model = await bench.model();
    const running = [1, 2, 3].map((seed) =>
      model.generate(opening, { ...long, temperature: 1, seed, presencePenalty: 1 }),
    );
    const computing: Promise<unknown>[] = [];
    for await (const _ of running[0]!) {
      if (computing.length > 0) continue;
      computing.push(model.logits([3, 4]), model.score({ tokens: [3, 4] }));
      for (const promise of computing) promise.catch(() => {});
      void model.dispose();
    }
    const results = await Promise.all(running.map((generation) => generation.result()));
    for (const { finishReason } of results) assert.equal(finishReason, 'abort');
    for (const promise of computing) await assert.rejects(promise, { code: 'disposed' });
    await model.dispose();
    assert.equal(bench.device.describe().allocatedBytes, 0);
    await bench.dispose();
  });

  it('ends with abort what was asked for a moment before', async () => {
    for (const prompt of [{ tokens: [1, 2] }, opening]) {
      const model = await loadModel(demoFolder, { device: 'cpu', contextLength: 64 });
      const generation = model.generate(prompt, { n: 2 });
      await model.dispose();
      const { finishReason, choices } = await generation.result();
      assert.deepEqual([finishReason, choices.length], ['abort', 2]);
    }
  });

  it('can be called again, and `await using` calls it', async () => {
    const model = await loadModel(fixtureFolder('qwen2-tied'), { device: 'cpu', contextLength: 64 });
    await Promise.all([model.dispose(), model.dispose(), model[Symbol.asyncDispose]()]);
  });

  describe('makes every method answer with code disposed', () => {
    let model: Model;
    before(async () => {
      model = await loadModel(demoFolder, { device: 'cpu', contextLength: 64 });
      await model.dispose();
    });

    const calls: Record<string, (of: Model) => unknown> = {
      'generate with text': (of) => of.generate('a'),
      'generate with tokens': (of) => of.generate({ tokens: [1] }),
      chat: (of) => of.chat([{ role: 'user', content: 'a' }]),
      logits: (of) => of.logits([1]),
      score: (of) => of.score('a'),
      'tokenizer.encode': (of) => of.tokenizer.encode('a'),
      'tokenizer.encodeChat': (of) => of.tokenizer.encodeChat([{ role: 'user', content: 'a' }]),
    };
    for (const [name, call] of Object.entries(calls))
      it(name, async () => {
        await assert.rejects(
          async () => call(model),
          (error) => {
            assert.ok(error instanceof Qwen2Error, String(error));
            assert.equal(error.code, 'disposed');
            assert.match(error.message, /disposed; load it again/);
            return true;
          },
        );
      });

    it('but leaves what was known', () => {
      assert.deepEqual([model.device, model.contextLength, model.hasTokenizer], ['cpu', 64, true]);
      assert.ok(model.parameters > 2e6 && model.loadSeconds > 0);
      assert.ok(model.memory.weightBytes > 5e6 && model.memory.decodeWeightBytes > 5e6);
    });
  });
});
