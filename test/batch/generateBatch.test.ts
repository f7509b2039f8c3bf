import assert from 'node:assert/strict';
import { setTimeout } from 'node:timers/promises';
import { type BatchOutcome, type BatchRequest, generateBatch, loadModel, type Model } from '../../lib/index.js';
import { demoFolder } from '../support/checkpoints.js';
import { assertRejectsQwen2, assertThrowsQwen2 } from '../support/errors.js';
import { Random } from '../support/random.js';

const random = new Random(5);
const requests: BatchRequest[] = Array.from({ length: 60 }, (_, i) => ({
  id: `r${i}`,
  prompt: { tokens: Array.from({ length: random.integer(1, 60) }, () => random.integer(3, 2000)) },
  maxTokens: random.integer(1, 24),
  temperature: i % 2,
  seed: i,
}));

async function collect(outcomes: AsyncIterable<BatchOutcome>): Promise<BatchOutcome[]> {
  const all: BatchOutcome[] = [];
  for await (const outcome of outcomes) all.push(outcome);
  return all;
}

describe('a batch', () => {
  let model: Model;
  before(async () => {
    model = await loadModel(demoFolder, { device: 'cpu', contextLength: 128, cacheTokens: 1024, maxSequences: 6 });
  });
  after(() => model.dispose());

  it('gives each request what it gets alone, once', async () => {
    const outcomes = await collect(generateBatch(model, requests));
    assert.deepEqual(outcomes.map(({ id }) => id).sort(), requests.map(({ id }) => id).sort());
    for (const { id, result } of outcomes) {
      const { prompt, ...options } = requests.find((request) => request.id === id)!;
      const { id: _, ...alone } = options;
      assert.deepEqual(result!.tokens, (await model.generate(prompt!, alone).result()).tokens, id);
    }
  });

  it('takes conversations, and asynchronous input', async () => {
    async function* input(): AsyncGenerator<BatchRequest> {
      for (const request of requests.slice(0, 5)) {
        await setTimeout(2);
        yield request;
      }
    }
    assert.equal((await collect(generateBatch(model, input()))).length, 5);
    assert.deepEqual(await collect(generateBatch(model, [])), []);
  });

  it('gives a request that fails its error in its place, and the rest goes on', async () => {
    const bad = [
      { id: 'long', prompt: { tokens: new Array(200).fill(3) } },
      { id: 'hot', prompt: { tokens: [3] }, temperature: -1 },
      { id: 'odd', prompt: { tokens: [3] }, frobnicate: 1 },
      { id: 'none' },
      { id: 'both', prompt: { tokens: [3] }, messages: [{ role: 'user', content: 'a' }] },
      { id: 'late', prompt: { tokens: [3] }, priority: 'now' },
    ] as unknown as BatchRequest[];
    const mixed = requests.slice(0, 6).flatMap((request, i) => [bad[i]!, request]);
    const outcomes = new Map((await collect(generateBatch(model, mixed))).map((outcome) => [outcome.id, outcome]));
    assert.equal(outcomes.size, 12);
    const codes = bad.map(({ id }) => outcomes.get(id)!.error!.code);
    assert.deepEqual(codes, ['context_overflow', ...new Array(5).fill('invalid_argument')]);
    for (const { id } of requests.slice(0, 6)) assert.ok(outcomes.get(id)!.result, id);
  });

  it('tells its progress', async () => {
    const seen: number[] = [];
    let last = { finished: 0, failed: 0, running: 0, promptTokens: 0, completionTokens: 0 };
    const onProgress = (progress: typeof last) => {
      seen.push(progress.finished);
      last = progress;
    };
    const outcomes = await collect(generateBatch(model, requests, { onProgress }));
    assert.deepEqual(
      seen,
      requests.map((_, i) => i + 1),
    );
    const sum = (of: (outcome: BatchOutcome) => number) => outcomes.reduce((total, outcome) => total + of(outcome), 0);
    assert.deepEqual(
      [last.failed, last.running, last.promptTokens, last.completionTokens],
      [0, 0, sum(({ result }) => result!.usage.promptTokens), sum(({ result }) => result!.tokens.length)],
    );
  });

  it('takes no more requests than it has room for: neither when it computes nor when nobody reads', async () => {
    let taken = 0;
    function* input(): Generator<BatchRequest> {
      for (;;) {
        taken++;
        yield { id: `${taken}`, prompt: { tokens: [5, 6] }, maxTokens: 1 };
      }
    }
    let read = 0;
    for await (const _ of generateBatch(model, input(), { concurrency: 7 })) {
      read++;
      assert.ok(taken - read <= 7, `${taken} taken, ${read} read`);
      if (read === 3) await setTimeout(100);
      if (read === 40) break;
    }
    const before = taken;
    await setTimeout(50);
    assert.equal(taken, before, 'nothing is taken after the loop was left');
  });

  it('ends what runs and closes its input when the loop is left', async () => {
    let closed = false;
    function* input(): Generator<BatchRequest> {
      try {
        for (;;) yield { id: 'x', prompt: { tokens: [5, 6] }, maxTokens: 100, ignoreEos: true };
      } finally {
        closed = true;
      }
    }
    for await (const _ of generateBatch(model, input())) break;
    assert.ok(closed);
    await model.generate({ tokens: [3] }, { maxTokens: 1 }).result();
  });

  it('is aborted by its signal, before and while it runs', async () => {
    await assertRejectsQwen2(collect(generateBatch(model, requests, { signal: AbortSignal.abort() })), 'aborted');
    const controller = new AbortController();
    const long = requests.map((request) => ({ ...request, maxTokens: 60, ignoreEos: true }));
    const running = collect(generateBatch(model, long, { signal: controller.signal }));
    await setTimeout(20);
    controller.abort(new Error('enough'));
    await assertRejectsQwen2(running, 'aborted', 'aborted by its AbortSignal');
  });

  it('throws what its input throws', async () => {
    const own = new Error('the input is broken');
    function* input(): Generator<BatchRequest> {
      yield requests[0]!;
      throw own;
    }
    await assert.rejects(collect(generateBatch(model, input())), (error) => error === own);
  });

  it('serves lower priorities first', async () => {
    const many = Array.from({ length: 40 }, (_, i) => ({
      id: `${i}`,
      prompt: { tokens: [5, 6, i + 7] },
      maxTokens: 8,
      ignoreEos: true,
      priority: i === 39 ? -1 : 0,
    }));
    const order = (await collect(generateBatch(model, many))).map(({ id }) => id);
    assert.ok(order.indexOf('39') < 20, `it came ${order.indexOf('39')}th`);
  });

  for (const concurrency of [0, 1.5, 'many'])
    it(`of concurrency ${concurrency} is refused`, () =>
      assertThrowsQwen2(
        () => generateBatch(model, [], { concurrency: concurrency as number }),
        'invalid_argument',
        'concurrency must be',
      ));

  describe('that is to be invariant', () => {
    it('is refused by a model that was loaded without it, with what to do', () =>
      assertThrowsQwen2(
        () => generateBatch(model, requests, { batchInvariant: true }),
        'invalid_argument',
        'load it with batchInvariant: true',
      ));

    it('is computed by one that was loaded with it', async () => {
      const invariant = await loadModel(demoFolder, { device: 'cpu', contextLength: 128, batchInvariant: true });
      try {
        const tokens = async (given: Model, options: object) => {
          const outcomes = await collect(generateBatch(given, requests.slice(0, 9), options));
          return new Map(outcomes.map(({ id, result }) => [id, result!.tokens]));
        };
        assert.deepEqual(await tokens(invariant, { batchInvariant: true }), await tokens(model, {}));
      } finally {
        await invariant.dispose();
      }
    });

    it('says so with true or false', () =>
      assertThrowsQwen2(
        () => generateBatch(model, [], { batchInvariant: 'yes' as unknown as boolean }),
        'invalid_argument',
        'batchInvariant must be true or false',
      ));
  });
});
