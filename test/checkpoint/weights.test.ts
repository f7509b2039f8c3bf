import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { rm, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import type { LoadProgress } from '../../lib/checkpoint/loader.js';
import { sourceTensors } from '../../lib/model/names.js';
import { loadWeights, type Weights } from '../../lib/model/weights.js';
import { Tensor } from '../../lib/native/tensor.js';
import {
  bulkyCheckpoint,
  type FileTensor,
  type FloatDType,
  floatTensor,
  modelTensors,
  removeFolders,
  safetensors,
  smallCheckpoint,
  smallConfig,
  writeFolder,
} from '../support/checkpointFiles.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import {
  type DeviceCase,
  devicesUnderTest,
  type OpBench,
  reference,
  requireDevice,
  withBench,
} from '../support/opBench.js';

type LoadOptions = Parameters<typeof loadWeights>[3];

async function loadFolder(bench: OpBench, folder: string, options: LoadOptions = {}): Promise<Weights> {
  return loadWeights(await openCheckpoint(folder), bench.device, bench.stream, options);
}

/** The bytes of a tensor's whole storage, as they are on the device: packed, padding included. */
async function stored(bench: OpBench, { storage }: Tensor): Promise<Uint8Array> {
  return bench.stream.download(new Tensor(storage, 'u8', [storage.bytes]), new Uint8Array(storage.bytes));
}

/** Every device tensor of a config, as stored. */
async function allStored(bench: OpBench, weights: Weights, config: object): Promise<Record<string, Uint8Array>> {
  const targets = new Set(sourceTensors(parseConfig(config, 'config')).map(({ target }) => target));
  const bytes = [...targets].map(async (target) => [target, await stored(bench, weights.get(target))] as const);
  return Object.fromEntries(await Promise.all(bytes));
}

const bulky = bulkyCheckpoint();
let bulkyFolder = '';

const openFiles = () => readdirSync('/proc/self/fd').length;

/** Asserts that a failed or finished load left neither device memory nor open files. */
async function leavesNothing(bench: OpBench, load: () => Promise<void>): Promise<void> {
  const before = openFiles();
  await load();
  assert.equal(bench.device.describe().allocatedBytes, 0, 'device memory');
  assert.equal(openFiles(), before, 'open files');
}

function describeLoading(device: DeviceCase): void {
  const withDevice = (body: (bench: OpBench) => Promise<void>) =>
    async function (this: Mocha.Context) {
      requireDevice(this, device);
      await withBench(device, body);
    };

  for (const tied of [false, true])
    it(
      `the same from bf16, f16 and f32, embeddings ${tied ? 'tied' : 'untied'}`,
      withDevice(async (bench) => {
        const config = { ...smallConfig, tie_word_embeddings: tied };
        const load = async (dtype: FloatDType, seed: number) => {
          const tensors = modelTensors(config, dtype, seed);
          const folder = await writeFolder({ 'config.json': config, 'model.safetensors': safetensors(tensors) });
          const weights = await loadFolder(bench, folder);
          return allStored(bench, weights, config).finally(() => weights.dispose());
        };
        const expected = await load('F32', 1);
        assert.deepEqual(await load('BF16', 1), expected);
        assert.deepEqual(await load('F16', 1), expected);
        assert.notDeepEqual(await load('F32', 2), expected);
      }),
    );

  it(
    'in parts, where a tensor is larger than a staging buffer, the same as in one piece',
    withDevice(async (bench) => {
      const { config, tensors } = bulky;
      const weights = await loadFolder(bench, bulkyFolder);
      const whole = (name: string) => {
        const { shape, bytes } = tensors[name]!;
        return bench.from('f32', shape, new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4));
      };
      const { intermediate_size: I, hidden_size: H, vocab_size: V } = config;
      const table = bench.empty('bf16', [V, H]);
      bench.run('convert', { source: whole('model.embed_tokens.weight'), out: table });
      const lmHead = bench.weight('linearWeight', V, H);
      bench.run('linear_pack', { source: whole('lm_head.weight'), weight: lmHead, row_offset: 0 });
      const gateUp = bench.weight('swigluWeight', 2 * I, H);
      for (const [part, name] of ['gate', 'up'].entries())
        bench.run('swiglu_pack', {
          source: whole(`model.layers.0.mlp.${name}_proj.weight`),
          weight: gateUp,
          part,
          row_offset: 0,
        });
      const expected = { embedding: table, lmHead, 'layers.0.gateUp': gateUp };
      for (const [target, tensor] of Object.entries(expected)) {
        const loaded = await stored(bench, weights.get(target));
        assert.ok(Buffer.from(loaded).equals(await stored(bench, tensor)), target);
      }
      await weights.dispose();
    }),
  );

  it(
    'with progress that rises with every part and ends at the total',
    withDevice(async (bench) => {
      const { byteLength } = bulky;
      const calls: LoadProgress[] = [];
      const weights = await loadFolder(bench, bulkyFolder, { onProgress: (p) => calls.push({ ...p }) });
      await weights.dispose();
      assert.ok(calls.length > 15, 'more calls than tensors');
      for (const [i, { loadedBytes, totalBytes }] of calls.entries()) {
        assert.equal(totalBytes, byteLength);
        assert.ok(loadedBytes > (calls[i - 1]?.loadedBytes ?? 0), `call ${i}: ${loadedBytes}`);
      }
      assert.equal(calls.at(-1)?.loadedBytes, byteLength);
    }),
  );

  describe('leaves no memory and no open file', () => {
    it(
      'after the weights are disposed',
      withDevice(async (bench) => {
        const folder = await writeFolder(smallCheckpoint());
        await leavesNothing(bench, async () => (await loadFolder(bench, folder)).dispose());
      }),
    );

    it(
      'when it is aborted before and while it runs; then it works',
      withDevice(async (bench) => {
        const folder = await writeFolder(smallCheckpoint());
        for (const parts of [0, 1, 10]) {
          const controller = new AbortController();
          let seen = 0;
          if (parts === 0) controller.abort();
          const onProgress = () => ++seen === parts && controller.abort(new Error('changed my mind'));
          const checkpoint = await openCheckpoint(folder);
          const { signal } = controller;
          await leavesNothing(bench, () =>
            assertRejectsQwen2(
              loadWeights(checkpoint, bench.device, bench.stream, { signal, onProgress }),
              'aborted',
              'Loading was aborted',
            ),
          );
          assert.ok(seen < checkpoint.tensors.size, 'the rest was not read');
        }
        await (await loadFolder(bench, folder)).dispose();
      }),
    );

    it(
      'when onProgress throws, whose error it is',
      withDevice(async (bench) => {
        const checkpoint = await openCheckpoint(await writeFolder(smallCheckpoint()));
        const own = new Error('mine');
        const onProgress = () => {
          throw own;
        };
        await leavesNothing(bench, () =>
          assert.rejects(loadWeights(checkpoint, bench.device, bench.stream, { onProgress }), (error) => error === own),
        );
      }),
    );

    it(
      'when a file shrinks after its header was read: file and tensor are named',
      withDevice(async (bench) => {
        const folder = await writeFolder(smallCheckpoint());
        const path = join(folder, 'model.safetensors');
        const checkpoint = await openCheckpoint(folder);
        const last = checkpoint.tensors.get('lm_head.weight')!;
        await truncate(path, last.offset + last.byteLength - 1);
        await leavesNothing(bench, () =>
          assertRejectsQwen2(
            loadWeights(checkpoint, bench.device, bench.stream),
            'io_error',
            `${path}, tensor lm_head.weight: `,
          ),
        );
      }),
    );

    it(
      'when a file is gone after its header was read',
      withDevice(async (bench) => {
        const folder = await writeFolder(smallCheckpoint());
        const checkpoint = await openCheckpoint(folder);
        await rm(join(folder, 'model.safetensors'));
        await leavesNothing(bench, () =>
          assertRejectsQwen2(
            loadWeights(checkpoint, bench.device, bench.stream),
            'io_error',
            join(folder, 'model.safetensors'),
          ),
        );
      }),
    );
  });
}

describe('weights', () => {
  before(async () => {
    bulkyFolder = await writeFolder(bulky.files);
  });
  after(removeFolders);

  for (const device of [reference, ...devicesUnderTest])
    describe(`are loaded on ${device.title}`, () => {
      describeLoading(device);
    });

  describe('that do not fit the config are named, with what was expected', () => {
    const q = 'model.layers.0.self_attn.q_proj.weight';
    const norm = 'model.norm.weight';
    const zeros = (dtype: FloatDType, shape: number[]) =>
      floatTensor(dtype, shape, new Float32Array(shape.reduce((product, n) => product * n, 1)));
    const bytesOf = (dtype: string, shape: number[], bytes: number): FileTensor => ({
      dtype,
      shape,
      bytes: new Uint8Array(bytes),
    });
    const faults: Record<string, { changes: Record<string, FileTensor | undefined>; words: string[] }> = {
      missing: { changes: { [q]: undefined }, words: [`${q} is missing, expected [64,64]`] },
      'more than the model has': {
        changes: { 'model.layers.2.mlp.up_proj.weight': zeros('BF16', [96, 64]) },
        words: ['model.layers.2.mlp.up_proj.weight [96,64] is not a tensor of this model'],
      },
      'of another shape': {
        changes: { [q]: zeros('BF16', [64, 32]) },
        words: [`${q} is [64,32], expected [64,64]`],
      },
      transposed: {
        changes: { 'model.layers.1.mlp.down_proj.weight': zeros('BF16', [96, 64]) },
        words: ['model.layers.1.mlp.down_proj.weight is [96,64], expected [64,96]'],
      },
      'of another rank': { changes: { [norm]: zeros('F32', [64, 1]) }, words: [`${norm} is [64,1], expected [64]`] },
      'of another dtype': {
        changes: { [norm]: bytesOf('I8', [64], 64), [q]: bytesOf('F64', [64, 64], 8 * 64 * 64) },
        words: [`${norm} has dtype i8, expected bf16, f16 or f32`, `${q} has dtype f64`],
      },
      'all at once': {
        changes: { [q]: undefined, [norm]: zeros('F32', [63]), extra: zeros('F32', [1]) },
        words: [`${q} is missing`, `${norm} is [63], expected [64]`, 'extra [1] is not a tensor of this model'],
      },
    };
    const load = async (changes: Record<string, FileTensor | undefined>, config: object = smallConfig) => {
      const tensors: Record<string, FileTensor | undefined> = { ...modelTensors(config), ...changes };
      const present = Object.entries(tensors).filter((entry): entry is [string, FileTensor] => entry[1] !== undefined);
      const folder = await writeFolder({
        'config.json': config,
        'model.safetensors': safetensors(Object.fromEntries(present)),
      });
      await withBench(reference, async (bench) => (await loadFolder(bench, folder)).dispose());
    };
    for (const [fault, { changes, words }] of Object.entries(faults))
      it(fault, async () => {
        await assertRejectsQwen2(load(changes), 'invalid_checkpoint', 'does not fit its config.json', ...words);
      });

    it('and counted, where they are many', async () => {
      const changes = Object.fromEntries(Object.keys(modelTensors(smallConfig)).map((name) => [name, undefined]));
      // 3 tensors and 12 of each of two layers.
      await assertRejectsQwen2(
        load(changes),
        'invalid_checkpoint',
        'model.embed_tokens.weight is missing',
        'and 19 more',
      );
    });

    it('unless they are what exporters add and no model reads', async () => {
      await load({ 'model.layers.0.self_attn.rotary_emb.inv_freq': zeros('F32', [16]) });
      await load({ 'lm_head.weight': zeros('BF16', [128, 64]) }, { ...smallConfig, tie_word_embeddings: true });
    });
  });
});
