import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { type LoadOptions, loadModel, type QuantizeOptions, quantizeCheckpoint } from '../../lib/index.js';
import { sourceTensors } from '../../lib/model/names.js';
import { packageFolder } from '../../lib/native/addon.js';
import {
  type FolderContent,
  floatTensor,
  removeFolders,
  safetensors,
  smallConfig,
  writeFolder,
} from '../support/checkpointFiles.js';
import { demoFolder } from '../support/checkpoints.js';
import { rmsError } from '../support/compare.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import { fromF16, toF16 } from '../support/f16.js';
import { dequantized } from '../support/int4Formats.js';
import { cudaEmulated, requireDevice } from '../support/opBench.js';
import { filesOf, Tensors } from '../support/quantized.js';
import { Random } from '../support/random.js';
import { uniforms } from '../support/uniforms.js';

/** Heads that share keys and values, and heads that have their own. */
const configs = {
  'shared heads': {
    ...smallConfig,
    hidden_size: 128,
    intermediate_size: 256,
    num_attention_heads: 2,
    num_key_value_heads: 1,
  },
  'heads of their own': {
    ...smallConfig,
    hidden_size: 128,
    intermediate_size: 128,
    num_attention_heads: 2,
    num_key_value_heads: 2,
  },
};

/** What makes the inputs of matrices: norms, and by their rows the matrices before others. */
const makers = /layernorm\.weight$|(v|up)_proj\.(weight|bias)$/;

/** A model some columns of whose inputs are 25 times as large as the others, as they are in trained models. */
function checkpointWithOutliers(config: object): FolderContent {
  const tensors = sourceTensors(parseConfig(config, 'config')).map(({ name, shape, part }, i) => {
    const rowLength = shape[1] ?? 1;
    const size = shape[0]! * rowLength;
    const isLarge = (row: number) => makers.test(name) && row % 37 === 5;
    const numbers = uniforms(size, i + 1, 0.08).map((x) => (part === 'norm' ? 1 + x : x));
    return [
      name,
      floatTensor(
        'BF16',
        shape,
        numbers.map((x, j) => (isLarge(Math.floor(j / rowLength)) ? 25 * x : x)),
      ),
    ];
  });
  return { 'config.json': config, 'model.safetensors': safetensors(Object.fromEntries(tensors)) };
}

const random = new Random(5);
const calibration = { tokens: Array.from({ length: 1500 }, () => random.integer(0, 127)) };
const byAwq: QuantizeOptions = {
  calibration,
  calibrationLength: 48,
  calibrationSequences: 20,
  groupSize: 64,
  device: 'cpu',
  threads: 2,
};

async function quantized(source: string, options: QuantizeOptions): Promise<string> {
  const out = join(await writeFolder({}), 'out');
  await quantizeCheckpoint(source, out, options);
  return out;
}

async function logitsOf(folder: string): Promise<Float32Array> {
  const given: LoadOptions = { device: 'cpu', exact: true, contextLength: 64, maxSequences: 1 };
  const model = await loadModel(folder, given);
  try {
    return await model.logits({ tokens: calibration.tokens.slice(700, 760) });
  } finally {
    await model.dispose();
  }
}

/** A matrix of the source, what its checkpoint of 4 bits has for it, and how far apart two numbers of that are. */
interface Twin {
  N: number;
  K: number;
  before: Float32Array;
  after: Float64Array;
  step: Float64Array;
}

class Twins {
  readonly #source: Tensors;
  readonly #output: Tensors;
  readonly #layer: number;

  constructor(source: Tensors, output: Tensors, layer: number) {
    this.#source = source;
    this.#output = output;
    this.#layer = layer;
  }

  async matrix(module: string): Promise<Twin> {
    const name = `model.layers.${this.#layer}.${module}`;
    const matrix = await this.#output.matrix(name);
    const { N, K, G, scales } = matrix;
    const step = new Float64Array(N * K);
    for (let i = 0; i < N * K; i++) step[i] = fromF16(scales[Math.floor(i / K) * G + Math.floor(((i % K) * G) / K)]!);
    return { N, K, before: await this.#source.numbers(`${name}.weight`), after: dequantized([matrix]).weight, step };
  }

  /** By how much each element of a vector was divided. */
  async divisors(vector: string): Promise<number[]> {
    const name = `model.layers.${this.#layer}.${vector}`;
    const [before, after] = [await this.#source.numbers(name), await this.#output.numbers(name)];
    return Array.from(before, (x, i) => x / after[i]!);
  }
}

/** Every column k was multiplied by scales[k], every row n divided by divisors[n], and rounded: no more was done to it. */
function assertScaled(
  { N, K, before, after, step }: Twin,
  scales: readonly number[],
  divisors: readonly number[] = [],
): void {
  let close = 0;
  for (let i = 0; i < N * K; i++) {
    const [n, k] = [Math.floor(i / K), i % K];
    const scaled = (before[i]! * scales[k]!) / (divisors[n] ?? 1);
    // Half a step, but for what is clipped, and what f16 loses of the scales.
    if (Math.abs(after[i]! - scaled) <= 0.51 * step[i]! + 2e-3 * Math.abs(scaled)) close++;
  }
  assert.ok(close > 0.93 * N * K, `${close} of ${N * K} weights are what they were`);
}

/** By how much the rows of a matrix were divided whose columns were multiplied by scales, by least squares. */
function rowDivisors({ N, K, before, after }: Twin, scales: readonly number[]): number[] {
  return Array.from({ length: N }, (_, n) => {
    let [product, square] = [0, 0];
    for (let k = 0; k < K; k++) {
      const scaled = before[n * K + k]! * scales[k]!;
      product += scaled * after[n * K + k]!;
      square += scaled * scaled;
    }
    return square / product;
  });
}

const spread = (values: readonly number[]) => Math.max(...values) / Math.min(...values);

describe('quantizeCheckpoint by AWQ', function () {
  this.timeout(120_000);
  after(removeFolders);

  for (const [title, config] of Object.entries(configs)) {
    it(`moves scales from inputs to weights, and nothing else, ${title}`, async () => {
      const source = await writeFolder(checkpointWithOutliers(config));
      const [before, after] = [await Tensors.of(source), await Tensors.of(await quantized(source, byAwq))];
      const spreads: number[] = [];
      for (const layer of [0, 1]) {
        const twins = new Twins(before, after, layer);
        const qkv = await twins.divisors('input_layernorm.weight');
        const gateUp = await twins.divisors('post_attention_layernorm.weight');
        spreads.push(spread(qkv), spread(gateUp));
        for (const name of ['q', 'k']) {
          assertScaled(await twins.matrix(`self_attn.${name}_proj`), qkv);
          assert.ok(spread(await twins.divisors(`self_attn.${name}_proj.bias`)) < 1.001);
        }
        const output = await twins.divisors('self_attn.v_proj.bias');
        assert.equal(spread(output) > 1.001, title === 'heads of their own', 'v gives up scales where it can');
        assertScaled(await twins.matrix('self_attn.v_proj'), qkv, output);
        assertScaled(await twins.matrix('self_attn.o_proj'), title === 'shared heads' ? Array(128).fill(1) : output);
        assertScaled(await twins.matrix('mlp.gate_proj'), gateUp);
        const up = await twins.matrix('mlp.up_proj');
        const down = rowDivisors(up, gateUp);
        assertScaled(up, gateUp, down);
        assertScaled(await twins.matrix('mlp.down_proj'), down);
      }
      assert.ok(Math.min(...spreads) > 1.1 && Math.max(...spreads) > 2.5, `outliers are scaled: ${spreads}`);
      for (const name of ['model.norm.weight', 'model.embed_tokens.weight', 'lm_head.weight'])
        assert.deepEqual(
          await after.numbers(name),
          (await before.numbers(name)).map((x) => fromF16(toF16(x))),
        );
    });
  }

  for (const device of [{ title: 'reference', name: 'reference' }, cudaEmulated])
    it(`works on ${device.title}`, async function () {
      requireDevice(this, device);
      const source = await writeFolder(checkpointWithOutliers(configs['shared heads']));
      const few = { ...byAwq, calibrationSequences: 2, clipSteps: 0, device: device.name };
      const [expected, found] = [await logitsOf(source), await logitsOf(await quantized(source, few))];
      const rtn = await logitsOf(await quantized(source, { groupSize: 64, clipSteps: 0, device: 'cpu' }));
      assert.ok(rmsError(found, expected) < rmsError(rtn, expected));
    });

  it('costs a trained model less than rounding alone: passages of its book stay more probable', async () => {
    const book = await readFile(join(packageFolder, 'models', 'demo', 'sherlock-holmes.txt'), 'utf8');
    const passages = Array.from({ length: 6 }, (_, i) => book.slice(50_000 * (i + 1), 50_000 * (i + 1) + 1200));
    const nats = async (folder: string) => {
      const model = await loadModel(folder, { device: 'cpu', contextLength: 512 });
      try {
        const scores = await Promise.all(passages.map((passage) => model.score(passage)));
        return scores.reduce((sum, score) => sum - score.sum / (score.tokens.length - 1), 0) / scores.length;
      } finally {
        await model.dispose();
      }
    };
    const given = { device: 'cpu', calibration: book, calibrationSequences: 16, calibrationLength: 128 };
    const before = await nats(demoFolder);
    const rounded = (await nats(await quantized(demoFolder, { device: 'cpu' }))) - before;
    const scaled = (await nats(await quantized(demoFolder, given))) - before;
    assert.ok(
      rounded > 0.01 && scaled < 0.85 * rounded,
      `a token costs ${scaled} nats more, by rounding alone ${rounded}`,
    );
  });

  it('goes on after an interruption to the same bytes', async () => {
    const source = await writeFolder(checkpointWithOutliers({ ...configs['shared heads'], num_hidden_layers: 4 }));
    const whole = await filesOf(await quantized(source, byAwq));
    for (const part of [0.3, 0.55, 0.75]) {
      const out = join(await writeFolder({}), 'out');
      const controller = new AbortController();
      const call = quantizeCheckpoint(source, out, {
        ...byAwq,
        signal: controller.signal,
        onProgress({ doneBytes, totalBytes }) {
          if (doneBytes >= part * totalBytes) controller.abort();
        },
      });
      await assertRejectsQwen2(call, 'aborted');
      const others = { ...byAwq, calibration: { tokens: calibration.tokens.toReversed() } };
      await assertRejectsQwen2(quantizeCheckpoint(source, out, others), 'invalid_argument', 'calibration changed');
      const { found } = await quantizeCheckpoint(source, out, byAwq);
      assert.ok(found > 0);
      assert.deepEqual(await filesOf(out), whole);
    }
  });

  it('ends while it searches, by its signal', async () => {
    const source = await writeFolder(checkpointWithOutliers(configs['shared heads']));
    const controller = new AbortController();
    setTimeout(() => controller.abort(), 150);
    const call = quantized(source, { ...byAwq, device: 'reference', signal: controller.signal });
    await assertRejectsQwen2(call, 'aborted');
  });
});
