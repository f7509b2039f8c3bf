import assert from 'node:assert/strict';
import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import { inspectCheckpoint, type LoadOptions, loadModel, type WeightOptions } from '../../lib/index.js';
import { planWeights } from '../../lib/model/plan.js';
import { loadWeights } from '../../lib/model/weights.js';
import { Tensor } from '../../lib/native/tensor.js';
import {
  type FileTensor,
  floatTensor,
  removeFolders,
  safetensors,
  smallCheckpoint,
  writeFolder,
} from '../support/checkpointFiles.js';
import { demoFolder } from '../support/checkpoints.js';
import { assertClose } from '../support/compare.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import { type Int4CheckpointOptions, int4Twins, wordsTensor } from '../support/int4Checkpoint.js';
import { everyInt4Format } from '../support/int4Formats.js';
import { type DeviceCase, devicesUnderTest, reference, requireDevice, withBench } from '../support/opBench.js';

const prompt = { tokens: [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8] };
const small = { contextLength: 64, cacheTokens: 64 } satisfies LoadOptions;

async function logitsOf(files: object | string, options: LoadOptions): Promise<Float32Array> {
  const folder = typeof files === 'string' ? files : await writeFolder(files as Record<string, object>);
  const model = await loadModel(folder, { ...small, ...options });
  try {
    return await model.logits(prompt);
  } finally {
    await model.dispose();
  }
}

/** The bytes of every tensor of a checkpoint on a device. */
async function storedBytes(device: DeviceCase, files: object, options: WeightOptions = {}) {
  const checkpoint = await openCheckpoint(await writeFolder(files as Record<string, object>));
  const plan = await planWeights(checkpoint, options);
  return withBench(device, async ({ device, stream }) => {
    const weights = await loadWeights(checkpoint, device, stream, { plan });
    const bytes: Record<string, Uint8Array> = {};
    for (const key of plan.targets.keys()) {
      const { storage } = weights.get(key);
      bytes[key] = await stream.download(new Tensor(storage, 'u8', [storage.bytes]), new Uint8Array(storage.bytes));
    }
    await weights.dispose();
    return bytes;
  });
}

type Change = (tensors: Record<string, FileTensor>) => Record<string, FileTensor>;

const isAttention = (module: string) => module.includes('self_attn');

describe('4-bit checkpoints', () => {
  after(removeFolders);

  describe('compute what the same weights in bf16 do', () => {
    const cases: { title: string; given: Int4CheckpointOptions }[] = [
      ...everyInt4Format.map((format) => ({ title: format, given: { format } })),
      { title: 'gptq, a scale a row', given: { format: 'gptq', groupSize: -1 } },
      { title: 'awq, a scale a row', given: { format: 'awq', groupSize: -1 } },
      { title: 'gptq, columns of each input in an order', given: { format: 'gptq', order: 'input' } },
      { title: 'gptq, columns of each matrix in an order', given: { format: 'gptq', order: 'matrix' } },
      { title: 'gptqV2, columns of each matrix in an order', given: { format: 'gptqV2', order: 'matrix' } },
      { title: 'gptq, biases of zeros', given: { format: 'gptq', zeroBiases: true } },
      { title: 'awq, attention in bf16', given: { format: 'awq', keep: isAttention } },
      {
        title: 'awq, some of what goes together in bf16',
        given: { format: 'awq', keep: (m) => /k_proj|up_proj/.test(m) },
      },
      {
        title: 'gptq, some in bf16 and each matrix in an order',
        given: { format: 'gptq', order: 'matrix', keep: (m) => /v_proj|gate_proj|down_proj/.test(m) },
      },
    ];
    for (const { title, given } of cases)
      it(`${title}: on reference in float32`, async () => {
        const { int4, bf16 } = int4Twins(given);
        const exact = { device: 'reference', dtype: 'f32' } as const;
        const expected = await logitsOf(bf16, exact);
        const largest = Math.max(...expected.map(Math.abs));
        assert.ok(largest > 0.1, 'logits that are not nothing');
        assertClose(await logitsOf(int4, exact), expected, 1e-5 * largest);
      });

    for (const device of devicesUnderTest)
      for (const { title, given } of cases.slice(5, 8))
        it(`${title}: on ${device.title}`, async function () {
          requireDevice(this, device);
          const { int4, bf16 } = int4Twins(given);
          const expected = await logitsOf(bf16, { device: 'reference', dtype: 'f32' });
          const { name, simd, threads } = device;
          const found = await logitsOf(int4, { device: name, simd, threads, exact: true });
          const spread = Math.sqrt(expected.reduce((sum, x) => sum + x * x, 0) / expected.length);
          assertClose(found, expected, 0.1 * spread);
        });
  });

  describe('become the same device tensors', () => {
    it('from every format', async () => {
      const [awq, ...others] = await Promise.all(
        everyInt4Format.map((format) => storedBytes(reference, int4Twins({ format }).int4)),
      );
      for (const other of others) assert.deepEqual(other, awq);
      assert.notDeepEqual(await storedBytes(reference, int4Twins({ format: 'awq', groupSize: -1 }).int4), awq);
    });

    for (const [actual, label] of [
      ['gptqV2', 'gptq'],
      ['gptq', 'gptq_v2'],
    ] as const)
      it(`from symmetric ${actual} that is labelled ${label}`, async () => {
        const given = { format: actual, symmetric: true };
        const right = await storedBytes(reference, int4Twins(given).int4);
        assert.deepEqual(
          await storedBytes(reference, int4Twins({ ...given, says: { checkpoint_format: label } }).int4),
          right,
        );
        const trusted = { ...given, says: { checkpoint_format: label, sym: false } };
        assert.notDeepEqual(await storedBytes(reference, int4Twins(trusted).int4), right);
      });
  });

  it('are told by inspectCheckpoint, with what they take', async () => {
    const folder = await writeFolder(int4Twins({ format: 'gptq', order: 'matrix' }).int4 as Record<string, object>);
    const { config, devices } = await inspectCheckpoint(folder);
    assert.deepEqual(config.quantization, { format: 'gptq', groupSize: 32, symmetric: false });
    for (const { name, weightBytes, decodeWeightBytes } of devices) {
      const model = await loadModel(folder, { ...small, device: name });
      assert.deepEqual([weightBytes, decodeWeightBytes], [model.memory.weightBytes, model.memory.decodeWeightBytes]);
      await model.dispose();
    }
  });

  describe('that are damaged are refused', () => {
    const q = 'model.layers.0.self_attn.q_proj'; // [128, 64]
    const groups = (change: (groupOf: Int32Array) => void) => (tensors: Record<string, FileTensor>) => {
      const groupOf = Int32Array.from({ length: 64 }, (_, k) => Math.floor(k / 32));
      change(groupOf);
      return { ...tensors, [`${q}.g_idx`]: wordsTensor(groupOf, [64]) };
    };
    const without = (name: string) => (tensors: Record<string, FileTensor>) =>
      Object.fromEntries(Object.entries(tensors).filter(([key]) => key !== name));
    const cases: {
      title: string;
      given?: Partial<Int4CheckpointOptions>;
      change?: Change;
      code?: 'invalid_checkpoint' | 'unsupported';
      says: string[];
    }[] = [
      {
        title: 'a group size that does not divide the columns',
        given: { says: { group_size: 128 } },
        says: [`${q} has 64 columns, which group_size 128 does not divide`],
      },
      {
        title: 'zeros of another shape',
        change: (tensors) => ({ ...tensors, [`${q}.qzeros`]: wordsTensor(new Int32Array(16), [1, 16]) }),
        says: [`${q}.qzeros is i32 [1,16], expected i32 [2,16]`],
      },
      {
        title: 'weights of 8 bits under a label of 4',
        change: (tensors) => ({ ...tensors, [`${q}.qweight`]: wordsTensor(new Int32Array(16 * 128), [16, 128]) }),
        says: [`${q}.qweight is i32 [16,128], expected i32 [8,128]`],
      },
      {
        title: 'scales that are not f16',
        change: (tensors) => ({ ...tensors, [`${q}.scales`]: floatTensor('BF16', [2, 128], new Float32Array(256)) }),
        says: [`${q}.scales is bf16 [2,128], expected f16 [2,128]`],
      },
      { title: 'scales that are missing', change: without(`${q}.scales`), says: [`${q}.scales is missing`] },
      {
        title: 'a group beyond the last',
        change: groups((groupOf) => groupOf.fill(2, 5, 6)),
        says: [`${q}.g_idx: column 5 is in group 2; expected 2 groups, 0 to 1, of 32 columns each`],
      },
      {
        title: 'a group below zero',
        change: groups((groupOf) => groupOf.fill(-1, 0, 1)),
        says: [`${q}.g_idx: column 0 is in group -1`],
      },
      {
        title: 'groups that are not equally long',
        change: groups((groupOf) => groupOf.fill(0)),
        says: [`${q}.g_idx: column 32 is in group 0`],
      },
      {
        title: 'a bias where Qwen2 has none',
        change: (tensors) => ({
          ...tensors,
          'model.layers.0.mlp.down_proj.bias': floatTensor('F16', [64], new Float32Array(64).fill(0.5)),
        }),
        code: 'unsupported',
        says: ['model.layers.0.mlp.down_proj.bias has values that are not zero'],
      },
      {
        title: 'no word of quantization in config.json',
        given: { says: { quant_method: undefined } },
        code: 'unsupported',
        says: ['quant_method missing'],
      },
    ];
    for (const { title, given = {}, change, code = 'invalid_checkpoint', says } of cases)
      it(title, async () => {
        const { int4, tensors } = int4Twins({ format: 'gptq', ...given });
        const folder = await writeFolder({ ...int4, 'model.safetensors': safetensors(change?.(tensors) ?? tensors) });
        await assertRejectsQwen2(loadModel(folder, { device: 'reference' }), code, ...says);
        await assertRejectsQwen2(inspectCheckpoint(folder), code, ...says);
      });
  });
});

describe('weights that are rounded while they are loaded', () => {
  after(removeFolders);

  const options = { quantize: 'int4', lmHead: 'int8' } as const;

  for (const device of devicesUnderTest)
    it(`compute nearly what they did before, on ${device.title}`, async function () {
      requireDevice(this, device);
      const { name, simd, threads } = device;
      const load = { device: name, simd, threads };
      const expected = await logitsOf(demoFolder, load);
      const found = await logitsOf(demoFolder, { ...load, ...options });
      const rms = (values: Float32Array) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);
      const error = rms(found.map((x, i) => x - expected[i]!)) / rms(expected);
      assert.ok(error > 0.001 && error < 0.15, `relative error ${error}`);
    });

  it('are those that the operations make of them', async () => {
    const files = smallCheckpoint();
    const stored = await storedBytes(reference, files, options);
    const checkpoint = await openCheckpoint(await writeFolder(files));
    const expected = await withBench(reference, async (bench) => {
      const dense = await loadWeights(checkpoint, bench.device, bench.stream);
      const head = bench.weight('linearWeight', 128, 64, { dtype: 'int8', group: 64 });
      const lmHead = dense.get('lmHead');
      // On reference, a packed bf16 weight is row-major.
      bench.run('linear_int8_pack', {
        source: new Tensor(lmHead.storage, 'bf16', [128, 64]),
        weight: head,
        row_offset: 0,
      });
      const { storage } = head;
      const bytes = await bench.stream.download(
        new Tensor(storage, 'u8', [storage.bytes]),
        new Uint8Array(storage.bytes),
      );
      await dense.dispose();
      return bytes;
    });
    assert.deepEqual(stored.lmHead, expected);
  });

  it('of 4 bits already are not rounded again', async () => {
    const folder = await writeFolder(int4Twins({ format: 'awq' }).int4 as Record<string, object>);
    await assertRejectsQwen2(loadModel(folder, { quantize: 'int4' }), 'invalid_argument', 'has 4-bit weights already');
  });

  it('of random models, too, take what is planned', async () => {
    const model = await loadModel({ config: 'qwen2-0.5b', weights: 'random' }, { device: 'cpu', ...small, ...options });
    try {
      // 357.8 million weights of 4.19 bits and 136.1 million of 8.13, and biases and norms.
      assert.ok(Math.abs(model.memory.weightBytes / 326e6 - 1) < 0.01, `${model.memory.weightBytes} bytes`);
      assert.ok((await model.logits(prompt)).every(Number.isFinite));
    } finally {
      await model.dispose();
    }
  });

  for (const [option, value] of [
    ['quantize', 'int8'],
    ['lmHead', 'int4'],
    ['exact', 1],
  ])
    it(`${option}: ${value} is refused`, () =>
      assertRejectsQwen2(
        loadModel({ config: 'qwen2-0.5b', weights: 'random' }, { [option as string]: value } as LoadOptions),
        'invalid_argument',
        `${option} is`,
      ));
});
