import assert from 'node:assert/strict';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout } from 'node:timers/promises';
import { type QuantizeOptions, quantizeCheckpoint } from '../../lib/index.js';
import { modelTensors, removeFolders, safetensors, smallConfig, writeFolder } from '../support/checkpointFiles.js';
import { demoFolder } from '../support/checkpoints.js';
import { outcomeOf, startQwen2 } from '../support/cli.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import { watchEventLoop } from '../support/eventLoop.js';
import { filesOf } from '../support/quantized.js';
import { Random } from '../support/random.js';

const config = { ...smallConfig, hidden_size: 256, intermediate_size: 512, num_hidden_layers: 6 };
const onCpu: QuantizeOptions = { device: 'cpu', threads: 1, simd: 'scalar' };

describe('a quantization that was interrupted', function () {
  this.timeout(120_000);
  let source: string;
  let whole: Record<string, Buffer>;
  before(async () => {
    source = await writeFolder({ 'config.json': config, 'model.safetensors': safetensors(modelTensors(config)) });
    whole = await quantizedFiles();
  });
  after(removeFolders);

  const newPath = async () => join(await writeFolder({}), 'out');
  async function quantizedFiles(): Promise<Record<string, Buffer>> {
    const out = await newPath();
    await quantizeCheckpoint(source, out, onCpu);
    return filesOf(out);
  }
  const shardsIn = async (out: string) =>
    (await readdir(out).catch(() => [])).filter((file) => file.endsWith('.safetensors')).length;

  it('by kill -9, at any moment, goes on to the same bytes', async () => {
    const random = new Random(7);
    const slowly = ['--device', 'cpu', '--threads', '1', '--simd', 'scalar'];
    let interrupted = 0;
    for (const moment of ['start', 'shard', 'shard', 'shard', 'any', 'any', 'any']) {
      const out = await newPath();
      for (let tries = 0; tries < 3; tries++) {
        const before = await shardsIn(out);
        const running = startQwen2(['quantize', source, out, ...slowly]);
        const ended = running.code.then(() => true);
        if (moment === 'start') await Promise.race([ended, readdirUntil(out)]);
        if (moment === 'shard')
          while ((await shardsIn(out)) <= before && !(await Promise.race([ended, setTimeout(1, false)]))) {}
        await setTimeout(random.integer(0, moment === 'any' ? 600 : 20));
        running.child.kill('SIGKILL');
        if ((await outcomeOf(running)).code === null) interrupted++;
      }
      const found = await shardsIn(out);
      const result = await quantizeCheckpoint(source, out, onCpu);
      assert.equal(result.found, found, 'whole files are not written again');
      assert.deepEqual(await filesOf(out), whole);
    }
    assert.ok(interrupted >= 5, `${interrupted} runs were interrupted`);
  });

  async function readdirUntil(out: string): Promise<void> {
    while ((await readdir(out).catch(() => [])).length === 0) await setTimeout(1);
  }

  it('by its signal goes on to the same bytes', async () => {
    for (const part of [0, 0.4, 0.7, 1]) {
      const out = await newPath();
      const controller = new AbortController();
      const call = quantizeCheckpoint(source, out, {
        ...onCpu,
        signal: controller.signal,
        onProgress({ doneBytes, totalBytes }) {
          if (doneBytes >= part * totalBytes) controller.abort(new Error('enough'));
        },
      });
      await assertRejectsQwen2(call, 'aborted', 'Quantizing was aborted');
      assert.ok(
        (await readdir(out)).every((file) => !file.endsWith('.part')),
        'no parts are left',
      );
      const { written, found } = await quantizeCheckpoint(source, out, onCpu);
      assert.equal(written + found, 8);
      assert.ok(part < 0.4 ? found < 3 : found >= 2, `${found} files at ${part}`);
      assert.deepEqual(await filesOf(out), whole);
    }
  });

  it('at once by a signal that fired before', async () => {
    const signal = AbortSignal.abort();
    await assertRejectsQwen2(quantizeCheckpoint(source, await newPath(), { signal }), 'aborted');
  });

  describe('is taken up by no other', () => {
    let out: string;
    beforeEach(async () => {
      out = await newPath();
      const controller = new AbortController();
      const options = { ...onCpu, signal: controller.signal, onProgress: () => controller.abort() };
      await assertRejectsQwen2(quantizeCheckpoint(source, out, options), 'aborted');
    });

    it('options', async () => {
      const words = ['groupSize was 128, and is 64 now', 'remove out'];
      await assertRejectsQwen2(quantizeCheckpoint(source, out, { groupSize: 64 }), 'invalid_argument', ...words);
      await assertRejectsQwen2(
        quantizeCheckpoint(source, out, { clipSteps: 1 }),
        'invalid_argument',
        'clipSteps was 20',
      );
    });

    it('source', async () => {
      await assertRejectsQwen2(quantizeCheckpoint(demoFolder, out), 'invalid_argument', 'source was');
    });

    it('content of the source', async () => {
      await writeFile(join(source, 'config.json'), JSON.stringify({ ...config, rope_theta: 2e4 }));
      await assertRejectsQwen2(quantizeCheckpoint(source, out), 'invalid_argument', 'files changed');
    });
  });

  it('leaves the event loop free', async () => {
    const percentiles: number[] = [];
    // What else runs on the machine takes the core, too: the best of three is the work's own.
    while (percentiles.length < 3 && !percentiles.some((p99) => p99 < 5)) {
      const stop = watchEventLoop();
      await quantizeCheckpoint(demoFolder, await newPath(), { device: 'cpu', threads: 1 });
      percentiles.push(stop().p99);
    }
    assert.ok(Math.min(...percentiles) < 5, `p99 of ${percentiles.map((p99) => p99.toFixed(1)).join(', ')} ms`);
  });
});
