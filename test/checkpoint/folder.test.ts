import assert from 'node:assert/strict';
import { chmod, mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import type { Qwen2ErrorCode } from '../../lib/native/errors.js';
import {
  type FolderContent,
  floatTensor,
  removeFolders,
  safetensors,
  smallConfig,
  writeFolder,
} from '../support/checkpointFiles.js';
import { fixtureFolder } from '../support/checkpoints.js';
import { assertRejectsQwen2 } from '../support/errors.js';

const one = (value: number) => floatTensor('F32', [1], Float32Array.of(value));
const shards = {
  'model-00001-of-00002.safetensors': safetensors({ a: one(1), b: one(2) }),
  'model-00002-of-00002.safetensors': safetensors({ c: one(3) }),
};
const [first, second] = Object.keys(shards) as [string, string];

/** A folder of two shards whose index says this. */
const sharded = (weightMap: unknown, files: FolderContent = shards): FolderContent => ({
  'config.json': smallConfig,
  'model.safetensors.index.json': { metadata: { total_size: 12 }, weight_map: weightMap },
  ...files,
});

describe('checkpoint folder', () => {
  after(removeFolders);

  it('with one file', async () => {
    const checkpoint = await openCheckpoint(fixtureFolder('qwen2-tied'));
    assert.equal(checkpoint.tensors.size, 2 + 2 * 12);
    assert.equal(checkpoint.config.tieWordEmbeddings, true);
    assert.deepEqual(checkpoint.generationConfig.eosTokenIds, [511]);
  });

  it('with shards: all their tensors, each with its file', async () => {
    const folder = await writeFolder(sharded({ a: first, b: first, c: second }));
    const { tensors, byteLength } = await openCheckpoint(folder);
    const paths = [...tensors.values()].map(({ name, path }) => [name, path]);
    assert.deepEqual(Object.fromEntries(paths), {
      a: join(folder, first),
      b: join(folder, first),
      c: join(folder, second),
    });
    assert.equal(byteLength, 12);
  });

  it('with more shards than are read at once', async () => {
    const names = Array.from({ length: 20 }, (_, i) => [`t${i}`, `model-${i}.safetensors`] as const);
    const files = Object.fromEntries(names.map(([name, file], i) => [file, safetensors({ [name]: one(i) })]));
    const { tensors } = await openCheckpoint(await writeFolder(sharded(Object.fromEntries(names), files)));
    assert.deepEqual([...tensors.keys()].sort(), names.map(([name]) => name).sort());
  });

  it('with an index and one file besides: the index counts', async () => {
    const folder = await writeFolder({ ...sharded({ a: first, b: first, c: second }), 'model.safetensors': 'unused' });
    assert.equal((await openCheckpoint(folder)).tensors.size, 3);
  });

  const faults: Record<string, [content: FolderContent, code: Qwen2ErrorCode, ...words: string[]]> = {
    'no config.json': [{ 'model.safetensors': safetensors({}) }, 'not_found', 'has no config.json'],
    'config.json that is not JSON': [
      { 'config.json': '{"model_type":' },
      'invalid_checkpoint',
      'config.json is not JSON',
    ],
    'config.json that is empty': [{ 'config.json': '' }, 'invalid_checkpoint', 'config.json is not JSON'],
    'config.json of megabytes': [
      { 'config.json': Buffer.alloc(2 ** 22 + 1, ' ') },
      'invalid_checkpoint',
      'config.json has 4194305 bytes; a configuration file has at most 4194304',
    ],
    'generation_config.json that is damaged': [
      { 'config.json': smallConfig, 'generation_config.json': { top_p: 5 } },
      'invalid_checkpoint',
      'generation_config.json: top_p is 5',
    ],
    'no weights': [
      { 'config.json': smallConfig },
      'not_found',
      'neither model.safetensors nor model.safetensors.index.json',
    ],
    'only weights of PyTorch': [
      { 'config.json': smallConfig, 'pytorch_model.bin': '' },
      'unsupported',
      'has pytorch_model.bin',
    ],
    'only GGUF': [
      { 'config.json': smallConfig, 'qwen2.Q4.gguf': '' },
      'unsupported',
      'has qwen2.Q4.gguf',
      'safetensors',
    ],
    'only adapters': [
      { 'config.json': smallConfig, 'adapter_model.safetensors': '' },
      'unsupported',
      'has adapter_model.safetensors',
    ],
    'one file that is damaged': [
      { 'config.json': smallConfig, 'model.safetensors': 'damaged' },
      'invalid_checkpoint',
      'model.safetensors: it has 7 bytes',
    ],
    'a shard that is missing': [
      sharded({ a: first, b: first, c: second }, { [second]: shards[second as keyof typeof shards] }),
      'not_found',
      `lacks ${first}, which holds 2 of its tensors; download it again`,
    ],
    'a shard that is damaged': [
      sharded({ a: first, b: first, c: second }, { ...shards, [second]: Buffer.alloc(5) }),
      'invalid_checkpoint',
      `${second}: it has 5 bytes`,
    ],
    'a tensor in another shard than the index says': [
      sharded({ a: first, b: second, c: second }),
      'invalid_checkpoint',
      `${first} holds b, but`,
      `places it in ${second}`,
    ],
    'a tensor that the index does not list': [
      sharded({ a: first, c: second }),
      'invalid_checkpoint',
      `${first} holds b, but`,
      'does not list it',
    ],
    'a tensor that is listed and nowhere': [
      sharded({ a: first, b: first, c: second, d: second }),
      'invalid_checkpoint',
      `places d in ${second}, which does not hold it`,
    ],
    'an index that is not JSON': [
      { ...sharded({}), 'model.safetensors.index.json': 'weights' },
      'invalid_checkpoint',
      'model.safetensors.index.json is not JSON',
    ],
    'an index that is a list': [
      { ...sharded({}), 'model.safetensors.index.json': [] },
      'invalid_checkpoint',
      'must be a JSON object',
    ],
    'an index without weight_map': [
      sharded(undefined),
      'invalid_checkpoint',
      'weight_map is missing; expected an object',
    ],
    'weight_map a list': [sharded([first]), 'invalid_checkpoint', `weight_map is ["${first}"]; expected an object`],
    'weight_map a text': [sharded(first), 'invalid_checkpoint', 'weight_map is "', 'expected an object'],
  };
  for (const [what, [content, code, ...words]] of Object.entries(faults))
    it(`with ${what}`, async () => {
      const folder = await writeFolder(content);
      await assertRejectsQwen2(openCheckpoint(folder), code, folder, ...words);
    });

  describe('with an index that places a tensor', () => {
    for (const shard of [
      '../x.safetensors',
      '/etc/x.safetensors',
      'sub/x.safetensors',
      '..\\x.safetensors',
      'x.bin',
      '',
      5,
      null,
    ])
      it(`in ${JSON.stringify(shard)}: expected is a *.safetensors file beside it`, async () => {
        const folder = await writeFolder(sharded({ a: shard }));
        await assertRejectsQwen2(
          openCheckpoint(folder),
          'invalid_checkpoint',
          `a is placed in ${JSON.stringify(shard)}; expected the name of a *.safetensors file beside it`,
        );
      });
  });

  it('that does not exist', async () => {
    const folder = await writeFolder({});
    await rm(folder, { recursive: true });
    await assertRejectsQwen2(openCheckpoint(folder), 'not_found', `There is no folder ${folder}`);
  });

  it('that is a file', async () => {
    const path = join(await writeFolder({ 'model.safetensors': '' }), 'model.safetensors');
    await assertRejectsQwen2(openCheckpoint(path), 'not_found', `${path} is a file; give the folder`);
  });

  it('whose name no file system takes', async () => {
    await assertRejectsQwen2(openCheckpoint('a\0b'), 'io_error', "can't be read");
    await assertRejectsQwen2(openCheckpoint('x'.repeat(10_000)), 'io_error', "can't be read");
  });

  it('in which config.json is a folder', async () => {
    const folder = await writeFolder({});
    await mkdir(join(folder, 'config.json'));
    await assertRejectsQwen2(openCheckpoint(folder), 'io_error', `${join(folder, 'config.json')} can't be read`);
  });

  it('that this user may not read', async function () {
    if (process.getuid?.() === 0) this.skip();
    const folder = await writeFolder({ 'config.json': smallConfig });
    await chmod(folder, 0);
    await assertRejectsQwen2(openCheckpoint(folder), 'io_error', folder).finally(() => chmod(folder, 0o700));
  });

  it('is not opened when the signal has fired', async () => {
    const signal = AbortSignal.abort(new Error('changed my mind'));
    await assertRejectsQwen2(openCheckpoint(fixtureFolder('qwen2-gqa'), { signal }), 'aborted', 'AbortSignal');
  });
});
