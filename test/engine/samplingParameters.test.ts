import assert from 'node:assert/strict';
import { Qwen2Error } from '../../lib/native/errors.js';
import {
  type GenerationDefaults,
  resolveSamplingParameters,
  type SamplingParameters,
} from '../../lib/sampler/parameters.js';

const limits = { vocabularySize: 1000, maxLogprobs: 20 };

/** Resolves what a caller without types might pass. */
const resolve = (given: Record<string, unknown> = {}, defaults: GenerationDefaults = {}) =>
  resolveSamplingParameters(given as SamplingParameters, defaults, limits);

/** The error that a call throws; its message must hold all of the words. */
function assertThrows(call: () => unknown, code: string, ...words: string[]): void {
  assert.throws(call, (error) => {
    assert.ok(error instanceof Qwen2Error, String(error));
    assert.equal(error.code, code);
    for (const word of words) assert.ok(error.message.includes(word), `"${error.message}" lacks "${word}"`);
    return true;
  });
}

describe('sampling parameters', () => {
  describe('defaults', () => {
    it('are plain sampling with nothing cut off, where neither caller nor checkpoint says otherwise', () => {
      const { seed, ...rest } = resolve();
      assert.ok(Number.isSafeInteger(seed) && seed >= 0);
      assert.deepEqual(rest, {
        maxTokens: undefined,
        minTokens: 0,
        temperature: 1,
        topP: 1,
        topK: 0,
        minP: 0,
        repetitionPenalty: 1,
        presencePenalty: 0,
        frequencyPenalty: 0,
        stop: [],
        stopTokenIds: [],
        ignoreEos: false,
        logitBias: new Map(),
        logprobs: undefined,
        promptLogprobs: undefined,
        n: 1,
      });
    });

    const checkpoint = { temperature: 0.7, topP: 0.8, topK: 20, minP: 0.01, repetitionPenalty: 1.05 };

    it("are the checkpoint's where it has them", () => {
      const { temperature, topP, topK, minP, repetitionPenalty } = resolve({}, checkpoint);
      assert.deepEqual({ temperature, topP, topK, minP, repetitionPenalty }, checkpoint);
    });

    it('give way to the caller, to zeros too', () => {
      const given = { temperature: 0, topP: 0.5, topK: 0, minP: 0, repetitionPenalty: 1 };
      const { temperature, topP, topK, minP, repetitionPenalty } = resolve(given, checkpoint);
      assert.deepEqual({ temperature, topP, topK, minP, repetitionPenalty }, given);
    });

    it('hold for parameters that are undefined', () => {
      assert.equal(resolve({ topP: undefined }, checkpoint).topP, 0.8);
    });

    it('of a checkpoint that make no sense are reported as its fault', () => {
      assertThrows(() => resolve({}, { topP: 3 }), 'invalid_checkpoint', 'topP', '3', 'generation_config.json');
      assert.equal(resolve({ topP: 0.5 }, { topP: 3 }).topP, 0.5);
    });
  });

  describe('seed', () => {
    it('is drawn anew for every request that has none, over all 53 bits', () => {
      const seeds = Array.from({ length: 64 }, () => resolve().seed);
      assert.equal(new Set(seeds).size, seeds.length);
      assert.ok(
        seeds.some((seed) => seed >= 2 ** 51),
        'the highest bits are used',
      );
      assert.ok(
        seeds.some((seed) => seed % 2 === 1),
        'the lowest bit is used',
      );
    });

    it('is kept when given', () => {
      for (const seed of [0, 1, 2 ** 32, Number.MAX_SAFE_INTEGER]) assert.equal(resolve({ seed }).seed, seed);
    });
  });

  describe('normal forms', () => {
    it('a single stop string becomes a list, duplicates go', () => {
      assert.deepEqual(resolve({ stop: 'end' }).stop, ['end']);
      assert.deepEqual(resolve({ stop: ['a', 'b', 'a'] }).stop, ['a', 'b']);
      assert.deepEqual(resolve({ stopTokenIds: [7, 7, 1] }).stopTokenIds, [7, 1]);
    });

    it('topK −1 is 0: all', () => {
      assert.equal(resolve({ topK: -1 }).topK, 0);
    });

    it('logitBias becomes a Map from an object as from a Map', () => {
      const expected = new Map([
        [3, 1.5],
        [20, Number.NEGATIVE_INFINITY],
      ]);
      assert.deepEqual(resolve({ logitBias: { 20: -Infinity, 3: 1.5 } }).logitBias, expected);
      assert.deepEqual(resolve({ logitBias: expected }).logitBias, expected);
    });

    it('does not share arrays or Maps with the caller', () => {
      const given = { stop: ['a'], stopTokenIds: [1], logitBias: new Map([[1, 1]]) };
      const resolved = resolve(given);
      given.stop.push('b');
      given.stopTokenIds.push(2);
      given.logitBias.set(2, 2);
      assert.deepEqual([resolved.stop, resolved.stopTokenIds, resolved.logitBias.size], [['a'], [1], 1]);
    });
  });

  describe('ranges', () => {
    /** The least and the greatest value, and values beyond them. */
    const ranges: Record<string, { valid: unknown[]; invalid: unknown[] }> = {
      maxTokens: { valid: [1, 1_000_000], invalid: [0, -1, 1.5, Infinity] },
      minTokens: { valid: [0, 5], invalid: [-1, 0.5] },
      temperature: { valid: [0, 1e-9, 0.7, 100], invalid: [-0.1, 101, Infinity] },
      topP: { valid: [1e-9, 0.5, 1], invalid: [0, -0.1, 1.01] },
      topK: { valid: [-1, 0, 1, 1_000_000], invalid: [-2, 1.5, 2 ** 31] },
      minP: { valid: [0, 0.5, 1], invalid: [-0.1, 1.01] },
      repetitionPenalty: { valid: [0.01, 1, 100], invalid: [0, -1, 101] },
      presencePenalty: { valid: [-2, 0, 2], invalid: [-2.1, 2.1] },
      frequencyPenalty: { valid: [-2, 0, 2], invalid: [-2.1, 2.1] },
      seed: { valid: [0, 2 ** 53 - 1], invalid: [-1, 0.5, 2 ** 53] },
      stop: { valid: ['x', ['x', 'y'], []], invalid: ['', ['x', ''], [1], {}] },
      stopTokenIds: { valid: [[], [0, 999]], invalid: [[1000], [-1], [1.5], ['1'], 5] },
      ignoreEos: { valid: [true, false], invalid: [1, 'true'] },
      logitBias: {
        valid: [{}, { 0: 1, 999: -100 }, new Map([[5, 100]]), { 5: -Infinity }],
        invalid: [
          { 1000: 1 },
          { x: 1 },
          { '1.5': 1 },
          { 5: 101 },
          { 5: Infinity },
          { 5: '1' },
          new Map([['5', 1]]),
          [1],
        ],
      },
      logprobs: { valid: [0, 20], invalid: [-1, 21, true] },
      promptLogprobs: { valid: [0, 20], invalid: [-1, 21, true] },
      n: { valid: [1, 1024], invalid: [0, 1025, 1.5] },
    };

    for (const [name, { valid, invalid }] of Object.entries(ranges)) {
      it(`of ${name}`, () => {
        for (const value of valid) resolve({ [name]: value });
        for (const value of [...invalid, Number.NaN, null, () => 1])
          assertThrows(() => resolve({ [name]: value }), 'invalid_argument', name, 'must be');
      });
    }

    it('cover every parameter', () => {
      assert.deepEqual(Object.keys(ranges).sort(), Object.keys(resolve()).sort());
    });

    it('of minTokens end at maxTokens', () => {
      assert.equal(resolve({ minTokens: 5, maxTokens: 5 }).minTokens, 5);
      assertThrows(() => resolve({ minTokens: 6, maxTokens: 5 }), 'invalid_argument', 'minTokens', '6', 'maxTokens');
    });

    it('are told with the value that was found', () => {
      assertThrows(() => resolve({ temperature: -1 }), 'invalid_argument', 'temperature is -1', 'from 0 to 100');
      assertThrows(() => resolve({ temperature: 'hot' }), 'invalid_argument', 'temperature is "hot"');
      assertThrows(() => resolve({ stopTokenIds: [1, 5000] }), 'invalid_argument', 'stopTokenIds[1] is 5000', '999');
    });
  });

  describe('unknown names', () => {
    const nearest: [given: string, meant: string][] = [
      ['max_tokens', 'maxTokens'],
      ['maxNewTokens', 'maxTokens'],
      ['temprature', 'temperature'],
      ['top_p', 'topP'],
      ['Top_K', 'topK'],
      ['repetition_penalty', 'repetitionPenalty'],
      ['ignoreEOS', 'ignoreEos'],
      ['stop_token_ids', 'stopTokenIds'],
      ['logprob', 'logprobs'],
    ];
    for (const [given, meant] of nearest)
      it(`${given}: did you mean ${meant}?`, () => {
        assertThrows(() => resolve({ [given]: 1 }), 'invalid_argument', `"${given}"`, `did you mean ${meant}?`);
      });

    it('that resemble none are answered with all', () => {
      assertThrows(() => resolve({ beamWidth: 4 }), 'invalid_argument', '"beamWidth"', 'maxTokens', 'promptLogprobs');
      assertThrows(() => resolve({ ['x'.repeat(10_000)]: 4 }), 'invalid_argument', 'maxTokens');
    });

    it('count when they are undefined too', () => {
      assertThrows(() => resolve({ max_tokens: undefined }), 'invalid_argument', 'maxTokens');
    });
  });

  it('what is not an object is refused', () => {
    for (const given of [null, 5, 'topP', [1]])
      assertThrows(() => resolve(given as never), 'invalid_argument', 'an object');
  });
});
