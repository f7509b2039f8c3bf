import assert from 'node:assert/strict';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { describe as inWords } from '../../lib/checkpoint/jsonFile.js';
import { type EngineOptions, type EnginePlan, planMemory } from '../../lib/engine/memory.js';
import { KvCache } from '../../lib/model/kvCache.js';
import { planRandomWeights } from '../../lib/model/plan.js';
import { Device } from '../../lib/native/device.js';
import { smallConfig } from '../support/checkpointFiles.js';
import { assertThrowsQwen2 } from '../support/errors.js';

const configOf = (contextLength: number) =>
  parseConfig({ ...smallConfig, max_position_embeddings: contextLength }, 'config.json');
const config = configOf(1024);
const gigabyte = 1e9;

describe('memory plan', () => {
  let device: Device;
  let blockBytes = 0;
  before(() => {
    device = Device.open('reference');
    blockBytes = KvCache.blockBytes(device, config, 'bf16');
  });
  after(() => device.dispose());

  const plan = (options: object = {}, freeBytes = gigabyte): EnginePlan =>
    planMemory(device, planRandomWeights(config), 'bf16', freeBytes, options as EngineOptions);

  it('by default holds 16 whole contexts, where memory allows', () => {
    const { contextLength, cacheBlocks, limits, cacheBytes } = plan();
    assert.equal(contextLength, 1024);
    assert.equal(cacheBlocks, (16 * 1024) / 16);
    assert.equal(cacheBytes, cacheBlocks * blockBytes);
    assert.deepEqual([limits.tokens, limits.sequences, limits.blocksPerSequence], [512, 16, 64]);
  });

  it('takes half of what is free beside the workspace, where that is less', () => {
    const { workspaceBytes } = plan();
    const { cacheBlocks, contextLength } = plan({}, workspaceBytes + 2 * 100 * blockBytes);
    assert.equal(cacheBlocks, 100);
    assert.equal(contextLength, 1024);
  });

  it('shortens a context that nobody asked for to what the cache holds', () => {
    const { workspaceBytes } = plan();
    assert.equal(plan({}, workspaceBytes + 2 * 10 * blockBytes).contextLength, 160);
  });

  it('takes more than half for a context that was asked for', () => {
    const { workspaceBytes } = plan({ contextLength: 1000 });
    assert.equal(plan({ contextLength: 1000 }, workspaceBytes + 64 * blockBytes).contextLength, 1000);
  });

  it('holds what was asked for, in whole blocks of 16 tokens', () => {
    assert.equal(plan({ cacheTokens: 100, contextLength: 50 }).cacheBlocks, 7);
    assert.equal(plan({ maxSequences: 3 }).cacheBlocks, 3 * 64);
    assert.equal(plan({ maxSequences: 600 }).limits.tokens, 600);
    assert.equal(plan({ stepTokens: 64 }).limits.tokens, 64);
  });

  it('takes the memory that was asked for, in bytes or as a part of what is left', () => {
    const { workspaceBytes } = plan();
    assert.equal(plan({ kvCache: { memory: 100.5 * blockBytes } }).cacheBlocks, 100);
    assert.equal(plan({ kvCache: { memory: '50%' } }, workspaceBytes + 300 * blockBytes).cacheBlocks, 150);
    assert.equal(plan({ kvCache: { memory: '100%' } }, workspaceBytes + 300 * blockBytes).cacheBlocks, 300);
  });

  for (const memory of [-1, Number.NaN, '101%', '90', 'all', null])
    it(`refuses a kvCache of ${memory}`, () =>
      assertThrowsQwen2(() => plan({ kvCache: { memory } }), 'invalid_argument', `kvCache.memory must be a number`));

  it('holds almost twice as many tokens of 8 bits in the same memory', () => {
    const { headDim } = config;
    for (const dtype of ['fp8', 'int8']) {
      const { cacheDtype, cacheBlocks, cacheBytes } = plan({ kvCache: { memory: 1000 * blockBytes, dtype } });
      assert.equal(cacheDtype, dtype);
      assert.equal(cacheBlocks, Math.floor((1000 * 2 * headDim) / (headDim + 4)));
      assert.ok(cacheBytes <= 1000 * blockBytes);
    }
  });

  it('holds keys and values as activations, where nothing else was asked for', () => {
    for (const kvCache of [undefined, {}, { dtype: undefined }, { dtype: 'bf16' }, { memory: '50%' }])
      assert.equal(plan({ kvCache }).cacheDtype, 'bf16');
  });

  for (const dtype of ['f32', 'fp16', 'INT8', 8, null])
    it(`refuses a cache of ${dtype}`, () =>
      assertThrowsQwen2(
        () => plan({ kvCache: { dtype } }),
        'invalid_argument',
        `kvCache.dtype must be 'fp8', 'int8' or 'bf16'; it is ${inWords(dtype)}`,
      ));

  it('refuses what else stands in kvCache', () =>
    assertThrowsQwen2(
      () => plan({ kvCache: { dtyp: 'fp8' } }),
      'invalid_argument',
      'There is no option kvCache.dtyp; known are memory and dtype',
    ));

  it('refuses 8 bits for heads that are no multiple of 16', () => {
    const narrow = parseConfig({ ...smallConfig, hidden_size: 24 * smallConfig.num_attention_heads }, 'config.json');
    assertThrowsQwen2(
      () => planMemory(device, planRandomWeights(narrow), 'bf16', gigabyte, { kvCache: { dtype: 'int8' } }),
      'unsupported',
      "kvCache.dtype 'int8' needs heads of a multiple of 16; this model's are of 24. Leave it out",
    );
  });

  it('refuses a cache of tokens and of memory', () =>
    assertThrowsQwen2(
      () => plan({ kvCache: { memory: '90%' }, cacheTokens: 100 }),
      'invalid_argument',
      'cacheTokens or kvCache.memory, not both',
    ));

  const ranges: Record<string, number> = {
    contextLength: 1024,
    maxSequences: 1024,
    stepTokens: 65536,
    cacheTokens: 2 ** 31,
  };
  for (const [name, max] of Object.entries(ranges))
    it(`refuses ${name} out of range`, () => {
      for (const value of [0, -1, 1.5, max + 1, Number.NaN, Number.POSITIVE_INFINITY, '16'])
        assertThrowsQwen2(
          () => plan({ [name]: value }),
          'invalid_argument',
          `${name} must be a whole number from 1 to ${max}; it is ${value}`,
        );
    });

  it('refuses steps of fewer tokens than sequences', () => {
    assertThrowsQwen2(
      () => plan({ stepTokens: 8, maxSequences: 9 }),
      'invalid_argument',
      'stepTokens is 8; it must be at least maxSequences, 9',
    );
  });

  it('refuses a context that the cache that was asked for does not hold', () => {
    assertThrowsQwen2(
      () => plan({ contextLength: 100, cacheTokens: 96 }),
      'invalid_argument',
      'contextLength 100 does not fit a cache of 96 tokens',
    );
  });

  const unfit: [what: string, options: EngineOptions, freeBytes: number][] = [
    ['a cache', { cacheTokens: 2 ** 31 }, gigabyte],
    ['a context', { contextLength: 2 ** 20 }, 100_000_000],
    ['a workspace', { stepTokens: 65536 }, 10_000_000],
    ['anything', {}, 0],
  ];
  for (const [what, options, freeBytes] of unfit)
    it(`says what is needed and what is free, where ${what} does not fit`, () => {
      assert.throws(
        () => planMemory(device, planRandomWeights(configOf(2 ** 20)), 'bf16', freeBytes, options),
        ({ code, message }: Error & { code?: string }) => {
          const numbers = /need (\d+) MB on reference, where (\d+) MB are free .* lower contextLength/;
          const [, needed, free] = numbers.exec(message) ?? assert.fail(message);
          assert.equal(code, 'out_of_memory');
          assert.equal(Number(free), freeBytes / 1e6);
          return Number(needed) > Number(free);
        },
      );
    });
});
