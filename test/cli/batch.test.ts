import assert from 'node:assert/strict';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { batchLoadOptions } from '../../lib/cli/batchModel.js';
import { defaultDevice, type LoadOptions, listDevices } from '../../lib/index.js';
import { demoFolder } from '../support/checkpoints.js';
import { qwen2 } from '../support/cli.js';

describe('qwen2 batch', () => {
  const given: [title: string, options: Parameters<typeof batchLoadOptions>[0], expected: LoadOptions['kvCache']][] = [
    ['a GPU gives the cache nearly all', { device: 'cuda', sequences: 64 }, { dtype: undefined, memory: '90%' }],
    ['and so does another GPU', { device: 'cuda:1', sequences: 8 }, { dtype: undefined, memory: '90%' }],
    ['the CPU what the engine does', { device: 'cpu', sequences: 64 }, { dtype: undefined, memory: undefined }],
    [
      'what is asked for counts, on a GPU',
      { device: 'cuda', sequences: 64, kvCacheMemory: '50%', kvCacheDtype: 'fp8' },
      { dtype: 'fp8', memory: '50%' },
    ],
    ['and on the CPU', { device: 'cpu', sequences: 1, kvCacheMemory: 1e9 }, { dtype: undefined, memory: 1e9 }],
  ];
  for (const [title, options, kvCache] of given)
    it(title, () => {
      const { device, maxSequences, ...rest } = batchLoadOptions(options);
      assert.deepEqual([device, maxSequences], [options.device, options.sequences]);
      assert.deepEqual(rest.kvCache, kvCache);
    });

  for (const batchInvariant of [true, undefined])
    it(`loads a model that is batch-invariant: ${batchInvariant}`, () =>
      assert.equal(
        batchLoadOptions({ device: 'cpu', sequences: 1, ...(batchInvariant && { batchInvariant }) }).batchInvariant,
        batchInvariant,
      ));

  it('computes on what `auto` is', async () => {
    const usable = (await listDevices()).find(({ available }) => available);
    assert.equal(await defaultDevice(), usable!.name);
  });

  it('tells its defaults', async () => {
    const { stdout } = await qwen2(['batch', '--help']);
    const words = stdout.replace(/\s+/g, ' ');
    for (const told of ['(default: 64)', "90% of what a GPU's weights leave; half of the free memory on the CPU"])
      assert.ok(words.includes(told), told);
  });

  it('loads a model with --batch-invariant', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'qwen2-batch-'));
    try {
      const request = JSON.stringify({ id: 'a', prompt: 'It was', maxTokens: 2, temperature: 0 });
      const command = ['batch', demoFolder, '-', '-o', join(folder, 'out.jsonl'), '-d', 'cpu', '--batch-invariant'];
      const { code, stdout, stderr } = await qwen2([...command, '--json'], request);
      assert.equal(code, 0, stderr);
      assert.equal(JSON.parse(stdout).finished, 1);
      assert.match(await readFile(join(folder, 'out.jsonl'), 'utf8'), /"id":"a"/);
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  for (const [size, message] of [
    ['110%', "kvCache.memory must be a number of bytes, or a part such as '90%'; it is 110%"],
    ['half', "option '--kv-cache-memory <size>' argument 'half' is invalid"],
    ['10', 'The KV cache and the workspace need'],
  ] as const)
    it(`refuses a cache of ${size}`, async () => {
      const command = ['batch', demoFolder, '-', '-o', '/nowhere/out', '-d', 'cpu', '--kv-cache-memory', size];
      const { code, stderr } = await qwen2(command, '');
      assert.ok(code !== 0 && stderr.includes(message), `${code} ${stderr}`);
    });
});
