import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { type LoadOptions, loadModel, type QuantizeOptions, quantizeCheckpoint } from '../../lib/index.js';
import { sourceTensors } from '../../lib/model/names.js';
import { toBf16 } from '../support/bf16.js';
import {
  type FloatDType,
  type FolderContent,
  floatTensor,
  modelTensors,
  removeFolders,
  safetensors,
  smallConfig,
  writeFolder,
} from '../support/checkpointFiles.js';
import { demoFolder, fixtureFolder } from '../support/checkpoints.js';
import { assertClose, assertSameBits } from '../support/compare.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import { fromF16, toF16 } from '../support/f16.js';
import { roundedToInt4 } from '../support/int4Rounding.js';
import { cudaEmulated, requireDevice } from '../support/opBench.js';
import { filesOf, Tensors } from '../support/quantized.js';
import { uniforms } from '../support/uniforms.js';

const wideConfig = { ...smallConfig, hidden_size: 128, intermediate_size: 256, num_hidden_layers: 3 };
const onCpu: QuantizeOptions = { device: 'cpu', threads: 2 };

/** A checkpoint whose numbers no short type holds exactly, so that a wrong rounding shows. */
function checkpointOf(config: object, dtype: FloatDType): FolderContent {
  const tensors = Object.fromEntries(
    sourceTensors(parseConfig(config, 'config')).map(({ name, shape }, i) => {
      const numbers = uniforms(
        shape.reduce((product, n) => product * n, 1),
        i,
        0.05,
      );
      const held = dtype === 'F16' ? numbers.map((x) => fromF16(toF16(x))) : numbers;
      const bits = Uint16Array.from(held, dtype === 'F16' ? toF16 : toBf16);
      return [name, dtype === 'F32' ? floatTensor('F32', shape, held) : { dtype, shape, bytes: bytesOf(bits) }];
    }),
  );
  return { 'config.json': config, 'model.safetensors': safetensors(tensors) };
}

function bytesOf(bits: Uint16Array): Uint8Array {
  return new Uint8Array(bits.buffer);
}

async function newPath(name = 'out'): Promise<string> {
  return join(await writeFolder({}), name);
}

async function quantized(source: string, options: QuantizeOptions = {}): Promise<string> {
  const out = await newPath();
  await quantizeCheckpoint(source, out, { ...onCpu, ...options });
  return out;
}

describe('quantizeCheckpoint', () => {
  after(removeFolders);

  const oneLayer = { ...wideConfig, num_hidden_layers: 1 };
  const cases = [
    { dtype: 'BF16', config: oneLayer, options: {} },
    { dtype: 'F16', config: oneLayer, options: { groupSize: 64, clipSteps: 0 } },
    { dtype: 'F32', config: { ...oneLayer, tie_word_embeddings: true }, options: { groupSize: 32, clipSteps: 30 } },
    { dtype: 'BF16', config: smallConfig, options: { groupSize: 32, method: 'rtn' } },
  ] as const;
  for (const { dtype, config, options } of cases) {
    const { groupSize = 128, clipSteps = 20 }: QuantizeOptions = options;
    it(`writes what AWQ's format says, from ${dtype}, groups of ${groupSize}, ${clipSteps} steps`, async () => {
      const source = await writeFolder(checkpointOf(config, dtype));
      const [before, after] = [await Tensors.of(source), await Tensors.of(await quantized(source, options))];
      const expectedNames: string[] = [];
      for (const name of before.names) {
        const { shape } = before.entry(name);
        const numbers = await before.numbers(name);
        if (!/_proj\.weight$/.test(name)) {
          assert.equal(after.entry(name).dtype, 'f16');
          assert.deepEqual(after.entry(name).shape, shape);
          assertSameBits(
            await after.numbers(name),
            numbers.map((x) => fromF16(toF16(x))),
            name,
          );
          expectedNames.push(name);
          continue;
        }
        const module = name.replace(/\.weight$/, '');
        const [N, K] = shape as [number, number];
        assert.deepEqual(after.entry(`${module}.qweight`).shape, [K, N / 8]);
        assert.deepEqual(after.entry(`${module}.qzeros`).shape, [K / groupSize, N / 8]);
        const expected = roundedToInt4(numbers, N, K, K / groupSize, clipSteps);
        assert.deepEqual(await after.matrix(module), expected, name);
        for (const suffix of ['qweight', 'qzeros', 'scales']) expectedNames.push(`${module}.${suffix}`);
      }
      assert.deepEqual(after.names, expectedNames.sort());
    });
  }

  it('writes the fields that other programs read', async () => {
    const source = { ...checkpointOf(wideConfig, 'BF16'), 'generation_config.json': { top_k: 7 }, LICENSE: 'free' };
    const folder = await quantized(await writeFolder({ ...source, 'merges.txt': 'a b', 'notes.md': 'mine' }));
    const files = await filesOf(folder);
    assert.deepEqual(Object.keys(files), [
      'LICENSE',
      'config.json',
      'generation_config.json',
      'merges.txt',
      ...[1, 2, 3, 4, 5].map((i) => `model-0000${i}-of-00005.safetensors`),
      'model.safetensors.index.json',
    ]);
    assert.deepEqual(JSON.parse(files['config.json']!.toString()), {
      ...wideConfig,
      torch_dtype: 'float16',
      quantization_config: {
        bits: 4,
        group_size: 128,
        modules_to_not_convert: null,
        quant_method: 'awq',
        version: 'gemm',
        zero_point: true,
      },
    });
    assert.deepEqual(JSON.parse(files['generation_config.json']!.toString()), { top_k: 7 });
    const shard = files['model-00002-of-00005.safetensors']!;
    const headerBytes = Number(shard.readBigUInt64LE());
    assert.equal(headerBytes % 8, 0, 'tensors begin at a multiple of 8');
    const header = JSON.parse(shard.subarray(8, 8 + headerBytes).toString());
    assert.deepEqual(header.__metadata__, { format: 'pt' });
    for (const [name, { dtype, data_offsets: offsets }] of Object.entries(header) as [string, HeaderTensor][])
      if (name !== '__metadata__') assert.equal(offsets[0] % (dtype === 'I32' ? 4 : 2), 0, name);
    const { metadata, weight_map } = JSON.parse(files['model.safetensors.index.json']!.toString());
    const tensors = await Tensors.of(folder);
    assert.deepEqual(Object.keys(weight_map).sort(), tensors.names);
    assert.equal(
      metadata.total_size,
      tensors.names.reduce((sum, name) => sum + tensors.entry(name).byteLength, 0),
    );
  });
  type HeaderTensor = { dtype: string; data_offsets: [number, number] };

  it('names the dtype as the source does', async () => {
    const config = { ...wideConfig, dtype: 'bfloat16' };
    const folder = await quantized(await writeFolder(checkpointOf(config, 'BF16')));
    const written = JSON.parse(await readFile(join(folder, 'config.json'), 'utf8'));
    assert.deepEqual([written.dtype, written.torch_dtype], ['float16', undefined]);
  });

  for (const device of [{ title: 'reference', name: 'reference' }, { title: 'cpu', name: 'cpu' }, cudaEmulated])
    it(`computes the same as what is rounded at loading, on ${device.title}`, async function () {
      requireDevice(this, device);
      const given: LoadOptions = { device: device.name, contextLength: 64, maxSequences: 1 };
      const folder = await quantized(demoFolder, { device: device.name });
      const logits = async (path: string, options: LoadOptions) => {
        const model = await loadModel(path, { ...given, ...options });
        try {
          return await model.logits('It was a close, rainy day in October.');
        } finally {
          await model.dispose();
        }
      };
      // But for what f16 does not hold of the table's smallest numbers.
      assertClose(await logits(folder, {}), await logits(demoFolder, { quantize: 'int4' }), 1e-4, 'logit');
    });

  it('writes the same bytes on every device', async function () {
    requireDevice(this, cudaEmulated);
    // The same source: its place is in the index.
    const source = await writeFolder(checkpointOf(wideConfig, 'BF16'));
    const [first, ...others] = await Promise.all(
      ['reference', 'cpu', 'cuda-emulated'].map(async (device) => filesOf(await quantized(source, { device }))),
    );
    for (const other of others) assert.deepEqual(other, first);
  });

  it('cuts large matrices and tables into parts', async () => {
    const config = {
      ...smallConfig,
      hidden_size: 128,
      vocab_size: 70_000,
      intermediate_size: 36_864,
      num_hidden_layers: 1,
    };
    const tensors = modelTensors(config, 'BF16');
    const source = await writeFolder({ 'config.json': config, 'model.safetensors': safetensors(tensors) });
    const [before, after] = [await Tensors.of(source), await Tensors.of(await quantized(source, { clipSteps: 0 }))];
    assertSameBits(await after.numbers('lm_head.weight'), await before.numbers('lm_head.weight'));
    for (const { module, K, rows } of [
      { module: 'model.layers.0.mlp.up_proj', K: 128, rows: [0, 32_760, 32_768, 36_856] },
      { module: 'model.layers.0.mlp.down_proj', K: 36_864, rows: [0, 104, 112, 120] },
    ]) {
      const [numbers, matrix] = [await before.numbers(`${module}.weight`), await after.matrix(module)];
      const G = K / 128;
      for (const n of rows) {
        const expected = roundedToInt4(numbers.subarray(n * K, (n + 8) * K), 8, K, G, 0);
        assert.deepEqual(matrix.q.subarray(n * K, (n + 8) * K), expected.q, `${module}, row ${n}`);
        assert.deepEqual(matrix.zeros.subarray(n * G, (n + 8) * G), expected.zeros, `${module}, row ${n}`);
        assert.deepEqual(matrix.scales.subarray(n * G, (n + 8) * G), expected.scales, `${module}, row ${n}`);
      }
    }
  });

  it('tells how far it is, in bytes of the source', async () => {
    const seen: number[] = [];
    const source = await writeFolder(checkpointOf(wideConfig, 'BF16'));
    const tensors = await Tensors.of(source);
    const total = tensors.names.reduce((sum, name) => sum + tensors.entry(name).byteLength, 0);
    await quantized(source, {
      onProgress({ doneBytes, totalBytes }) {
        assert.equal(totalBytes, total);
        seen.push(doneBytes);
      },
    });
    assert.deepEqual(
      seen,
      [...seen].sort((a, b) => a - b),
    );
    assert.equal(seen.at(-1), total);
  });

  describe('refuses', () => {
    let source: string;
    before(async () => {
      source = await writeFolder(checkpointOf(wideConfig, 'BF16'));
    });
    const refused = async (options: object, ...words: string[]) =>
      assertRejectsQwen2(quantizeCheckpoint(source, await newPath(), options), 'invalid_argument', ...words);

    for (const [options, ...words] of [
      [{ bits: 3 }, "There is no option 'bits'", 'groupSize'],
      [{ groupSize: 48 }, 'groupSize is 48', '32, 64 or 128'],
      [{ clipSteps: 31 }, 'clipSteps is 31', '0 to 30'],
      [{ method: 'gptq' }, 'method is "gptq"', "'rtn' or 'awq'"],
      [{ method: 'awq' }, 'give calibration'],
      [{ method: 'rtn', calibration: 'text' }, 'leave out calibration'],
      [{ calibration: 7 }, 'calibration is 7', 'a text, or { tokens }'],
      [{ calibration: null }, 'calibration is null'],
      [{ device: 'tpu' }, "There is no device 'tpu'"],
      [{ signal: {} }, 'an AbortSignal'],
    ] as const)
      it(JSON.stringify(options), () => refused(options, ...words));

    it('a groupSize that does not divide, and says which would', async () => {
      const narrow = await writeFolder(checkpointOf(smallConfig, 'BF16'));
      const out = await newPath();
      const words = ['has 64 columns', 'groupSize 128', 'groupSize 32 would do'];
      await assertRejectsQwen2(quantizeCheckpoint(narrow, out, onCpu), 'invalid_argument', ...words);
      const odd = await writeFolder(checkpointOf({ ...smallConfig, intermediate_size: 72 }, 'BF16'));
      await assertRejectsQwen2(quantizeCheckpoint(odd, out, onCpu), 'unsupported', 'no groupSize of 128, 64, 32');
    });

    it('rows that fill no word', async () => {
      const config = { ...wideConfig, intermediate_size: 132 };
      const folder = await writeFolder(checkpointOf(config, 'BF16'));
      const words = ['gate_proj.weight has 132 rows', '8 rows'];
      await assertRejectsQwen2(quantizeCheckpoint(folder, await newPath(), onCpu), 'unsupported', ...words);
    });

    it('a checkpoint of 4 bits', async () => {
      const call = quantizeCheckpoint(fixtureFolder('qwen2-awq'), await newPath());
      await assertRejectsQwen2(call, 'invalid_argument', '4-bit weights already');
    });

    it('no checkpoint', async () => {
      await assertRejectsQwen2(quantizeCheckpoint(await writeFolder({}), await newPath()), 'not_found', 'config.json');
    });

    for (const [what, name, bits, words] of [
      [
        'a weight that is not a number',
        'model.layers.1.mlp.up_proj.weight',
        0x7fc0,
        ['row 2, column 5', 'quantize_int4'],
      ],
      ['a bias beyond f16', 'model.layers.1.self_attn.k_proj.bias', toBf16(1e5), ['not finite as f16']],
    ] as const)
      it(`${what}, by its name`, async () => {
        const tensors = modelTensors(wideConfig, 'BF16');
        const { bytes, shape } = tensors[name]!;
        new DataView(bytes.buffer, bytes.byteOffset).setUint16(2 * (2 * (shape[1] ?? 0) + 5), bits, true);
        const folder = await writeFolder({ 'config.json': wideConfig, 'model.safetensors': safetensors(tensors) });
        const out = await newPath();
        await assertRejectsQwen2(quantizeCheckpoint(folder, out, onCpu), 'invalid_checkpoint', name, ...words);
        assert.ok(Object.keys(await filesOf(out)).every((file) => !file.endsWith('.part')));
      });

    it('an output that holds something else, or is a file', async () => {
      const filled = await writeFolder({ 'diary.txt': 'mine' });
      await assertRejectsQwen2(quantizeCheckpoint(source, filled), 'invalid_argument', 'diary.txt', 'new folder');
      await assertRejectsQwen2(quantizeCheckpoint(source, source), 'invalid_argument', 'config.json', 'new folder');
      const file = join(filled, 'diary.txt');
      await assertRejectsQwen2(quantizeCheckpoint(source, file), 'invalid_argument', 'is a file');
      await assertRejectsQwen2(quantizeCheckpoint(source, join(file, 'deeper')), 'invalid_argument', 'is a file');
      assert.equal(await readFile(file, 'utf8'), 'mine');
    });

    it('an output of the same source by other options, whole or not', async () => {
      const out = await quantized(source);
      await assertRejectsQwen2(quantizeCheckpoint(source, out, { groupSize: 64 }), 'invalid_argument', 'new folder');
    });
  });

  it('finds a whole output whole', async () => {
    const source = await writeFolder(checkpointOf(wideConfig, 'BF16'));
    const out = await quantized(source);
    const before = await filesOf(out);
    assert.deepEqual(await quantizeCheckpoint(source, out), {
      ...{ written: 0, found: 5 },
      bytes: Object.entries(before).reduce((sum, [name, { length }]) => sum + (/-of-/.test(name) ? length : 0), 0),
    });
    assert.deepEqual(await filesOf(out), before);
    await writeFile(join(source, 'model.safetensors'), safetensors(modelTensors(wideConfig)));
    await assertRejectsQwen2(quantizeCheckpoint(source, out), 'invalid_argument', 'new folder');
  });
});
