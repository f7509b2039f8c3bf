import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { smallConfig } from '../support/checkpointFiles.js';
import { denseFixtures, fixtureFolder } from '../support/checkpoints.js';
import { assertThrowsQwen2 } from '../support/errors.js';

const parse = (changes: Record<string, unknown>) =>
  parseConfig({ ...smallConfig, hidden_size: 256, ...changes }, 'config.json');

const yarn = { factor: 4.0, original_max_position_embeddings: 512 };

/** Steps between two positive float32: their distance in the order of floats. */
function ulps(a: number, b: number): number {
  const [x = 0, y = 0] = new Int32Array(Float32Array.of(a, b).buffer);
  return Math.abs(x - y);
}

describe('rotary frequencies', () => {
  for (const name of denseFixtures)
    it(`of ${name} are those of Hugging Face's code`, () => {
      const read = (file: string) => JSON.parse(readFileSync(join(fixtureFolder(name), file), 'utf8'));
      const { rope } = parseConfig(read('config.json'), name);
      const { rope_inv_freq: expected, rope_attention_scaling: scaling } = read('expected.json').reference;
      assert.equal(rope.inverseFrequencies.length, expected.length);
      // Ours are rounded correctly from float64. The reference's pow is within 1 ulp of that (a few differ), and the
      // reciprocal keeps a step of its argument below 1 ulp, half an ulp of its own rounding included.
      for (const [j, frequency] of rope.inverseFrequencies.entries())
        assert.ok(ulps(frequency, expected[j]) <= 1, `pair ${j}: ${frequency}, expected ${expected[j]}`);
      assert.equal(rope.attentionFactor, scaling);
    });

  it('without scaling are theta^(−2j / headDim), in float32', () => {
    const { rope } = parse({ rope_theta: 10000 });
    assert.equal(rope.attentionFactor, 1);
    for (const [j, frequency] of rope.inverseFrequencies.entries())
      assert.ok(ulps(frequency, Math.fround(10000 ** (-j / 64))) <= 1, `pair ${j}`);
  });
});

describe('YaRN', () => {
  const expected = parse({ rope_theta: 1e6, rope_scaling: { type: 'yarn', ...yarn } });

  it('slows the pairs that turn less than once in the original length by the factor, and keeps the fastest', () => {
    const plain = parse({ rope_theta: 1e6 }).rope.inverseFrequencies;
    const { inverseFrequencies } = expected.rope;
    assert.equal(inverseFrequencies[0], plain[0]);
    const slow = [...plain.keys()].filter((j) => plain[j]! * 512 < 2 * Math.PI);
    assert.ok(slow.length > 30);
    // The ramp ends at the first whole pair beyond one turn.
    for (const j of slow.slice(1)) assert.ok(ulps(inverseFrequencies[j]!, plain[j]! / 4) <= 1, `pair ${j}`);
  });

  const spellings: Record<string, Record<string, unknown>> = {
    'rope_scaling.rope_type': { rope_theta: 1e6, rope_scaling: { rope_type: 'yarn', ...yarn } },
    'rope_scaling with both types': { rope_theta: 1e6, rope_scaling: { rope_type: 'yarn', type: 'yarn', ...yarn } },
    'rope_parameters with its own theta': { rope_parameters: { rope_type: 'yarn', rope_theta: 1e6, ...yarn } },
    'rope_parameters before rope_scaling and rope_theta': {
      rope_theta: 5000,
      rope_scaling: { type: 'linear', factor: 2 },
      rope_parameters: { rope_type: 'yarn', rope_theta: 1e6, ...yarn },
    },
    'null for what has a default': {
      rope_theta: 1e6,
      rope_scaling: { type: 'yarn', ...yarn, beta_fast: null, beta_slow: null, attention_factor: null },
    },
    'the defaults written out': {
      rope_theta: 1e6,
      rope_scaling: { type: 'yarn', ...yarn, beta_fast: 32, beta_slow: 1, attention_factor: 0.1 * Math.log(4) + 1 },
    },
    'max_position_embeddings as the original length': {
      rope_theta: 1e6,
      max_position_embeddings: 512,
      rope_scaling: { type: 'yarn', factor: 4.0 },
    },
  };
  for (const [spelling, changes] of Object.entries(spellings))
    it(`is the same as ${spelling}`, () => {
      const { rope, ropeTheta, contextLength } = parse(changes);
      assert.deepEqual(
        { rope, ropeTheta, contextLength },
        {
          rope: expected.rope,
          ropeTheta: 1e6,
          contextLength: 2048,
        },
      );
    });

  it('takes an attention factor of the file', () => {
    const { rope } = parse({ rope_scaling: { type: 'yarn', ...yarn, attention_factor: 1.5 } });
    assert.equal(rope.attentionFactor, 1.5);
  });

  it('takes the ramp of the file', () => {
    const narrow = parse({ rope_theta: 1e6, rope_scaling: { type: 'yarn', ...yarn, beta_fast: 2 } }).rope;
    const differ = [...narrow.inverseFrequencies].filter((f, j) => f > expected.rope.inverseFrequencies[j]!);
    assert.ok(differ.length > 5, 'pairs that turn 2 to 32 times are kept faster');
  });

  it('makes the context original length × factor, whatever max_position_embeddings says', () => {
    for (const length of [256, 512, 32768])
      assert.equal(
        parse({ max_position_embeddings: length, rope_scaling: { type: 'yarn', ...yarn } }).contextLength,
        2048,
      );
    assert.equal(parse({ rope_scaling: { type: 'yarn', ...yarn, factor: 1.3 } }).contextLength, 665);
  });

  it('yields finite frequencies at the ends of every range', () => {
    for (const extreme of [
      { factor: 1 },
      { factor: 1e6 },
      { original_max_position_embeddings: 1 },
      // A ramp from pair 0 to pair 0.
      { original_max_position_embeddings: 6 },
      { original_max_position_embeddings: 2 ** 31 - 1 },
      { beta_fast: 1e-3, beta_slow: 1e6 },
      { beta_fast: 1e6, beta_slow: 1e-3 },
      { beta_fast: 1, beta_slow: 1 },
    ])
      for (const theta of [1.000001, 10000, 1e12]) {
        const { rope } = parse({ rope_theta: theta, rope_scaling: { type: 'yarn', ...yarn, ...extreme } });
        const outside = rope.inverseFrequencies.findIndex((f) => !(f > 0 && f <= 1));
        assert.equal(outside, -1, `${JSON.stringify(extreme)}, theta ${theta}`);
      }
  });

  describe('fields that are missing or wrong', () => {
    const wrong: [field: string, values: unknown[], expected: string][] = [
      ['factor', [undefined, null, 0, 0.5, -4, '4', [4], 1e7], 'expected a number from 1 to 1000000'],
      ['original_max_position_embeddings', [0, -512, 0.5, '512'], 'expected a whole number from 1'],
      ['beta_fast', [0, -1, '32', 1e7], 'expected a number from 0.001 to 1000000'],
      ['beta_slow', [0, -1, '1', 1e7], 'expected a number from 0.001 to 1000000'],
      ['attention_factor', [0, -1, '1', 1e4], 'expected a number from 0.001 to 1000'],
      ['rope_theta', [0, 1, '1e6'], 'expected a number from 1.000001'],
      ['rope_type', [4, ['yarn']], 'expected a string'],
    ];
    for (const [field, values, message] of wrong)
      it(field, () => {
        for (const value of values)
          assertThrowsQwen2(
            () => parse({ rope_scaling: { type: 'yarn', ...yarn, [field]: value } }),
            'invalid_checkpoint',
            `config.json: rope_scaling: ${field} is ${value === undefined || value === null ? 'missing' : JSON.stringify(value)}`,
            message,
          );
      });
  });
});
