import assert from 'node:assert/strict';
import { inspectCheckpoint, listDevices, loadModel } from '../../lib/index.js';
import { removeFolders, writeFolder } from '../support/checkpointFiles.js';
import { demoFolder, denseFixtures, fixtureFolder } from '../support/checkpoints.js';
import { assertRejectsQwen2 } from '../support/errors.js';

describe('inspectCheckpoint', () => {
  after(removeFolders);

  it('tells a checkpoint’s parameters and bytes', async () => {
    const { parameters, fileBytes, config, hasTokenizer } = await inspectCheckpoint(fixtureFolder('qwen2-gqa'));
    const [H, I, V, Q, KV] = [256, 224, 512, 256, 128];
    const layer = 2 * H + H * Q + 2 * H * KV + Q + 2 * KV + Q * H + 3 * H * I;
    assert.equal(parameters, 2 * V * H + 3 * layer + H);
    // What the index of its three shards says.
    assert.equal(fileBytes, 2_742_784);
    assert.equal(config.numHiddenLayers, 3);
    assert.equal(hasTokenizer, false);
  });

  for (const name of denseFixtures)
    it(`${name}: two bytes a parameter, in bf16`, async () => {
      const { parameters, fileBytes } = await inspectCheckpoint(fixtureFolder(name));
      assert.equal(fileBytes, 2 * parameters);
    });

  it('tells whether there is a tokenizer', async () => {
    assert.equal((await inspectCheckpoint(demoFolder)).hasTokenizer, true);
  });

  it('tells for every usable device what the weights take and the cache has room for', async () => {
    const folder = fixtureFolder('qwen2-gqa');
    const { devices } = await inspectCheckpoint(folder);
    const usable = (await listDevices()).filter(({ available }) => available);
    assert.deepEqual(
      devices.map(({ name }) => name),
      usable.map(({ name }) => name),
    );
    for (const { name, freeBytes, weightBytes, cacheBytesPerToken, cacheTokens } of devices) {
      const model = await loadModel(folder, { device: name, cacheTokens: 1024, contextLength: 1024 });
      assert.deepEqual([weightBytes, cacheBytesPerToken], [model.memory.weightBytes, model.memory.cacheBytesPerToken]);
      await model.dispose();
      // Keys and values of 3 layers, one KV head of 128, in bf16.
      assert.ok(cacheBytesPerToken >= 3 * 2 * 128 * 2, name);
      assert.equal(cacheTokens, Math.floor((freeBytes - weightBytes) / cacheBytesPerToken));
    }
  });

  it('refuses what can’t be loaded, for the same reason', async () => {
    const folder = await writeFolder({ 'config.json': { model_type: 'llama' } });
    await assertRejectsQwen2(inspectCheckpoint(folder), 'unsupported', 'llama');
    await assertRejectsQwen2(inspectCheckpoint(`${folder}/none`), 'not_found', `${folder}/none`);
  });
});
