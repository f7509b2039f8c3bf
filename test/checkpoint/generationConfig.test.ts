import assert from 'node:assert/strict';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { parseGenerationConfig, readGenerationConfig } from '../../lib/checkpoint/generationConfig.js';
import { removeFolders, smallConfig, writeFolder } from '../support/checkpointFiles.js';
import { assertRejectsQwen2, assertThrowsQwen2 } from '../support/errors.js';

const config = parseConfig({ ...smallConfig, eos_token_id: [7, 8] }, 'config.json');
const parse = (json: unknown) => parseGenerationConfig(json, 'generation_config.json', config);

const greedy = { temperature: 0, topP: 1, topK: 0, minP: 0, repetitionPenalty: 1, eosTokenIds: [7, 8] };

describe('generation_config.json', () => {
  after(removeFolders);

  it('of Qwen2-7B-Instruct: sampling as it recommends', () => {
    const recommended = {
      bos_token_id: 151643,
      pad_token_id: 151643,
      do_sample: true,
      eos_token_id: [151645, 151643],
      repetition_penalty: 1.05,
      temperature: 0.7,
      top_p: 0.8,
      top_k: 20,
      transformers_version: '4.37.0',
    };
    assert.deepEqual(parse(recommended), {
      temperature: 0.7,
      topP: 0.8,
      topK: 20,
      minP: 0,
      repetitionPenalty: 1.05,
      eosTokenIds: [151645, 151643],
    });
  });

  const cases: { what: string; json: object; expected: object }[] = [
    { what: 'an empty one: greedy', json: {}, expected: greedy },
    { what: 'one without do_sample: greedy, at any temperature', json: { temperature: 0.7 }, expected: greedy },
    { what: 'one with do_sample false: greedy', json: { do_sample: false, temperature: 2 }, expected: greedy },
    { what: 'do_sample alone: temperature 1', json: { do_sample: true }, expected: { ...greedy, temperature: 1 } },
    { what: 'a single end token', json: { eos_token_id: 3 }, expected: { ...greedy, eosTokenIds: [3] } },
    { what: 'no end tokens, as said', json: { eos_token_id: [] }, expected: { ...greedy, eosTokenIds: [] } },
    { what: 'min_p', json: { min_p: 0.05 }, expected: { ...greedy, minP: 0.05 } },
    {
      what: 'nulls: as if not there',
      json: { do_sample: null, temperature: null, top_p: null, top_k: null, min_p: null, eos_token_id: null },
      expected: greedy,
    },
    {
      what: 'the ends of the ranges',
      json: { do_sample: true, temperature: 100, top_p: 1, top_k: 0, min_p: 1, repetition_penalty: 100 },
      expected: { ...greedy, temperature: 100, minP: 1, repetitionPenalty: 100 },
    },
  ];
  for (const { what, json, expected } of cases)
    it(what, () => {
      assert.deepEqual(parse(json), expected);
    });

  const wrong: [field: string, values: unknown[], expected: string][] = [
    ['do_sample', [1, 'true', []], 'expected true or false'],
    ['temperature', [-0.1, 101, '0.7', [0.7]], 'expected a number from 0 to 100'],
    ['top_p', [0, -1, 1.1, '0.8'], 'expected a number from 0.000001 to 1'],
    ['top_k', [-1, 0.5, '20', 2 ** 31], 'expected a whole number from 0 to 2147483647'],
    ['min_p', [-0.1, 1.1, {}], 'expected a number from 0 to 1'],
    ['repetition_penalty', [0, -1, 101, '1.05'], 'expected a number from 0.01 to 100'],
    ['eos_token_id', [-1, 0.5, '151645', [null], {}], 'expected a token id, or a list of them'],
  ];
  for (const [field, values, expected] of wrong)
    it(`${field} out of range or of the wrong type`, () => {
      for (const value of values)
        assertThrowsQwen2(
          () => parse({ [field]: value }),
          'invalid_checkpoint',
          `generation_config.json: ${field} is ${JSON.stringify(value)}; ${expected}`,
        );
    });

  it('that is not an object', () => {
    for (const json of [null, [], 'greedy', 1])
      assertThrowsQwen2(() => parse(json), 'invalid_checkpoint', 'JSON object');
  });

  describe('as a file', () => {
    it('missing: greedy, with the end tokens of config.json', async () => {
      assert.deepEqual(await readGenerationConfig(await writeFolder({}), config), greedy);
    });

    it('there', async () => {
      const folder = await writeFolder({ 'generation_config.json': { do_sample: true, temperature: 0.5 } });
      assert.deepEqual(await readGenerationConfig(folder, config), { ...greedy, temperature: 0.5 });
    });

    it('not JSON, or far too large', async () => {
      for (const [content, word] of [
        ['{', 'is not JSON'],
        ['', 'is not JSON'],
        [Buffer.alloc(5 << 20, ' '), 'has 5242880 bytes'],
      ] as const) {
        const folder = await writeFolder({ 'generation_config.json': content });
        await assertRejectsQwen2(readGenerationConfig(folder, config), 'invalid_checkpoint', folder, word);
      }
    });
  });
});
