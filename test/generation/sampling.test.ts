import assert from 'node:assert/strict';
import type { Logprobs } from '../../lib/engine/sequence.js';
import { loadModel } from '../../lib/generation/loadModel.js';
import type { GenerateOptions, Model } from '../../lib/generation/model.js';
import { type ResolvedSamplingParameters, resolveSamplingParameters } from '../../lib/sampler/parameters.js';
import { demoFolder } from '../support/checkpoints.js';
import { assertClose, assertSameBits } from '../support/compare.js';
import { LogProbabilities, possibleTokens, type SampleRow, sampleRow } from '../support/sampleModel.js';

/** What the contract of `sample` grants: relative, of a token's mass. */
const massError = 1e-5;
const logprobError = (logprob: number) => 2 ** -23 * Math.abs(logprob) + 1e-5;

const plain = { temperature: 1, topK: 0, topP: 1 };
const opening = 'Once upon a time';

describe('sampling, from prompt to token', () => {
  let model: Model;
  let prompt: number[];
  before(async () => {
    model = await loadModel(demoFolder, { device: 'cpu', contextLength: 128, stepTokens: 16 });
    prompt = await model.tokenizer.encode(opening);
  });
  after(() => model.dispose());

  /** Row by row: the logits after each of the tokens. */
  async function rowsOf(tokens: readonly number[]): Promise<(token: number) => Float32Array> {
    const logits = await model.logits(tokens);
    const width = model.config.vocabularySize;
    return (token) => logits.subarray(token * width, (token + 1) * width);
  }

  const cases: Record<string, GenerateOptions> = {
    'temperature 1': plain,
    'temperature 0, whatever the rest is': { temperature: 0, topK: 50, minP: 0.1 },
    'temperature 2.5': { ...plain, temperature: 2.5 },
    topK: { ...plain, temperature: 3, topK: 7 },
    topP: { ...plain, temperature: 2, topP: 0.6 },
    minP: { ...plain, temperature: 2, minP: 0.05 },
    'topK, topP and minP': { temperature: 3, topK: 40, topP: 0.9, minP: 0.01 },
    repetitionPenalty: { ...plain, temperature: 1.5, repetitionPenalty: 1.4 },
    presencePenalty: { ...plain, temperature: 1.5, presencePenalty: 1.5 },
    frequencyPenalty: { ...plain, temperature: 1.5, frequencyPenalty: -1.2 },
    'greedy under all penalties': {
      temperature: 0,
      repetitionPenalty: 1.8,
      presencePenalty: 0.9,
      frequencyPenalty: 0.9,
    },
    logitBias: { ...plain, temperature: 1.5, logitBias: { 13: 6, 11: -6, 262: -Infinity } },
    "the checkpoint's own": {},
  };

  for (const [title, options] of Object.entries(cases))
    it(`follows the definition: ${title}`, async () => {
      const given = { seed: 2 ** 40 + 77, n: 3, maxTokens: 24, ignoreEos: true, ...options };
      const { choices } = await model.generate(opening, given).result();
      const { vocabularySize } = model.config;
      const parameters = resolveSamplingParameters(given, model.generationConfig, { vocabularySize, maxLogprobs: 0 });
      for (const { index, tokens } of choices) {
        const rowAt = await rowsOf([...prompt, ...tokens]);
        for (const [i, token] of tokens.entries()) {
          const logits = Float32Array.from(rowAt(prompt.length - 1 + i));
          const row = definition(parameters, { logits, choice: index, token: i, output: tokens.slice(0, i), prompt });
          const possible = possibleTokens(row, massError);
          assert.ok(possible.has(token), `token ${i} of choice ${index} is ${token}; expected ${[...possible]}`);
        }
      }
    });

  it('-Infinity forbids a token', async () => {
    const free = await model.generate(opening, { temperature: 0, maxTokens: 24 }).result();
    const forbidden = free.tokens[3]!;
    const bound = { temperature: 0, maxTokens: 24, logitBias: new Map([[forbidden, -Infinity]]) };
    const { tokens } = await model.generate(opening, bound).result();
    assert.deepEqual(tokens.slice(0, 3), free.tokens.slice(0, 3));
    assert.ok(!tokens.includes(forbidden));
  });

  describe('logprobs', () => {
    for (const count of [0, 1, 5, 20])
      it(`report the chosen token and ${count} alternatives, before any parameter`, async () => {
        const options = { ...plain, temperature: 2, repetitionPenalty: 1.5, seed: 4, maxTokens: 10, logprobs: count };
        const { tokens, logprobs } = await model.generate(opening, options).result();
        const rowAt = await rowsOf([...prompt, ...tokens]);
        assert.equal(logprobs?.length, tokens.length);
        for (const [i, entry] of logprobs.entries()) {
          assert.equal(entry.token, tokens[i]);
          assertLogprobs(entry, rowAt(prompt.length - 1 + i), count);
        }
      });

    it('are absent unless they are asked for, in company of some who ask', async () => {
      const [silent, asking] = await Promise.all(
        [undefined, 3].map((logprobs) => model.generate(opening, { maxTokens: 4, logprobs }).result()),
      );
      assert.deepEqual(['logprobs' in silent!, 'promptLogprobs' in silent!], [false, false]);
      assert.equal(asking!.logprobs![0]!.top.length, 3);
    });
  });

  describe('promptLogprobs', () => {
    for (const [count, n] of [
      [0, 1],
      [6, 2],
    ] as const)
      it(`report every prompt token but the first, and ${count} alternatives, for ${n} choices`, async () => {
        const tokens = (await model.tokenizer.encode(opening.repeat(12))).slice(0, 70);
        const options = { maxTokens: 2, promptLogprobs: count, n };
        const { promptLogprobs } = await model.generate({ tokens }, options).result();
        const rowAt = await rowsOf(tokens);
        assert.equal(promptLogprobs?.length, 70);
        assert.equal(promptLogprobs[0], null);
        for (let i = 1; i < 70; i++) {
          assert.equal(promptLogprobs[i]!.token, tokens[i]);
          assertLogprobs(promptLogprobs[i]!, rowAt(i - 1), count);
        }
      });

    it('of a prompt of one token are one null', async () => {
      const { promptLogprobs } = await model.generate({ tokens: [5] }, { maxTokens: 1, promptLogprobs: 2 }).result();
      assert.deepEqual(promptLogprobs, [null]);
    });
  });

  describe('score', () => {
    it('is the log-probability of every token after those before it', async () => {
      const text = opening.repeat(12);
      const { tokens, logprobs, sum } = await model.score(text);
      assert.deepEqual(tokens, await model.tokenizer.encode(text));
      assert.deepEqual(await model.score({ tokens }), { tokens, logprobs, sum });
      const rowAt = await rowsOf(tokens);
      const expected = tokens.slice(1).map((token, i) => new LogProbabilities(rowAt(i)).of(token));
      assert.equal(logprobs[0], null);
      assertClose(logprobs.slice(1) as number[], expected, (i) => logprobError(expected[i]!));
      assertClose([sum], [(logprobs.slice(1) as number[]).reduce((a, b) => a + b, 0)], 1e-9);
    });

    it('of one token is nothing', async () => {
      assert.deepEqual(await model.score({ tokens: [7] }), { tokens: [7], logprobs: [null], sum: 0 });
    });
  });

  describe('logits', () => {
    it('are [tokens, vocabulary], of prompts longer than a step and than the rows computed at once', async () => {
      const tokens = (await model.tokenizer.encode(opening.repeat(30))).slice(0, 120);
      const logits = await model.logits(tokens);
      assert.equal(logits.length, 120 * model.config.vocabularySize);
      assert.ok(logits.every(Number.isFinite));
      const whole = await loadModel(demoFolder, { device: 'cpu', contextLength: 128 });
      try {
        assertSameBits(await whole.logits({ tokens }), logits);
      } finally {
        await whole.dispose();
      }
    });

    it('of text are those of its tokens', async () => {
      assertSameBits(await model.logits(opening as never), await model.logits(prompt));
    });

    it('do not depend on what comes after', async () => {
      const [long, short] = [await model.logits([...prompt, 9, 9]), await model.logits(prompt)];
      assertSameBits(long.subarray(0, short.length), short);
    });
  });
});

interface Choosing {
  logits: Float32Array;
  choice: number;
  token: number;
  prompt: number[];
  output: number[];
}

/** The row that `sample` has to choose from. */
function definition(parameters: ResolvedSamplingParameters, { prompt, output, ...at }: Choosing): SampleRow {
  const { seed, logitBias } = parameters;
  return sampleRow({
    ...parameters,
    ...at,
    biases: [...logitBias],
    seed: [seed % 2 ** 32, Math.floor(seed / 2 ** 32)],
    history: { prompt, output },
  });
}

function assertLogprobs({ token, logprob, rank, top }: Logprobs, logits: Float32Array, count: number): void {
  const expected = new LogProbabilities(logits);
  assertClose([logprob], [expected.of(token)], logprobError(logprob), `log-probability of ${token}`);
  assert.equal(rank, expected.rank(token));
  assert.deepEqual(
    top.map((entry) => [entry.token, entry.rank]),
    expected.top(count).map((id, i) => [id, i + 1]),
  );
  for (const entry of top) assertClose([entry.logprob], [expected.of(entry.token)], logprobError(entry.logprob));
}
