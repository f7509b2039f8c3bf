import assert from 'node:assert/strict';
import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import { loadTokenizer } from '../../lib/index.js';
import { Device } from '../../lib/native/device.js';
import type { Tensor } from '../../lib/native/tensor.js';
import { CalibrationRun } from '../../lib/quantization/calibrationRun.js';
import { calibrationSequences } from '../../lib/quantization/calibrationText.js';
import { type QuantizeOptions, resolveOptions } from '../../lib/quantization/options.js';
import { fromBf16 } from '../support/bf16.js';
import { demoFolder, type FixtureName, fixtureFolder } from '../support/checkpoints.js';
import { assertRejectsQwen2 } from '../support/errors.js';
import { Tensors } from '../support/quantized.js';
import { Random } from '../support/random.js';
import { observeStates } from '../support/states.js';

describe('the calibration text', () => {
  const cut = async (folder: string, options: QuantizeOptions) =>
    calibrationSequences(await openCheckpoint(folder), resolveOptions(options));
  const fixture = fixtureFolder('qwen2-gqa');
  const count = (n: number) => ({ tokens: Array.from({ length: n }, (_, i) => i % 512) });

  it('is cut to sequences that are spread over it', async () => {
    const sequences = await cut(fixture, { calibration: count(500), calibrationSequences: 4, calibrationLength: 20 });
    assert.deepEqual(
      sequences.map((sequence) => [sequence[0], sequence.length, sequence.at(-1)]),
      [
        [0, 20, 19],
        [160, 20, 179],
        [320, 20, 339],
        [480, 20, 499],
      ],
    );
  });

  for (const { title, tokens, options, expected } of [
    { title: 'no more than there are', tokens: 50, options: { calibrationLength: 20 }, expected: [2, 20] },
    { title: 'one that is shorter', tokens: 7, options: {}, expected: [1, 7] },
    { title: 'one of all', tokens: 20, options: { calibrationLength: 20 }, expected: [1, 20] },
    { title: '32 of 512', tokens: 20_000, options: {}, expected: [32, 512] },
  ])
    it(`gives ${title}`, async () => {
      const sequences = await cut(fixture, { calibration: count(tokens), ...options });
      assert.deepEqual([sequences.length, sequences[0]!.length], expected);
    });

  it('is as long as the model takes', async () => {
    const { config } = await openCheckpoint(demoFolder);
    const [first] = await cut(demoFolder, { calibration: count(1 << 16), calibrationLength: 1 << 16 });
    assert.equal(first!.length, config.contextLength);
  });

  it('is encoded by the checkpoint’s tokenizer', async () => {
    const text = 'It was a cold morning of the early spring.';
    const tokenizer = await loadTokenizer(demoFolder);
    const expected = await tokenizer.encode(text);
    await tokenizer.dispose();
    assert.deepEqual(await cut(demoFolder, { calibration: text }), [Int32Array.from(expected)]);
  });

  it('must have tokens that the model knows', async () => {
    await assertRejectsQwen2(cut(demoFolder, { calibration: '' }), 'invalid_argument', 'no tokens');
    for (const id of [512, -1, 0.5])
      await assertRejectsQwen2(cut(fixture, { calibration: { tokens: [1, id] } }), 'invalid_argument', `id ${id}`);
    await assertRejectsQwen2(cut(fixture, { calibration: 'text' }), 'invalid_argument', 'no tokenizer', '{ tokens }');
  });
});

describe('the inputs of a layer’s matrices', () => {
  /** States [T, H], normalized as RMSNorm does, times its weight. */
  const normalized = (states: Float32Array, weight: Float32Array, eps: number) =>
    states.map((_, i) => {
      const row = states.subarray(i - (i % weight.length), i - (i % weight.length) + weight.length);
      const meanSquare = row.reduce((sum, x) => sum + x * x, 0) / row.length;
      return (states[i]! / Math.sqrt(meanSquare + eps)) * weight[i % weight.length]!;
    });
  const root = (values: Float32Array) => Math.sqrt(values.reduce((sum, x) => sum + x * x, 0) / values.length);

  const cases: { fixture: FixtureName; sequences: number; length: number }[] = [
    { fixture: 'qwen2-gqa', sequences: 3, length: 21 },
    { fixture: 'qwen2-tied', sequences: 2, length: 16 },
    { fixture: 'qwen2-sliding', sequences: 2, length: 40 },
    { fixture: 'qwen2-yarn', sequences: 1, length: 33 },
    { fixture: 'qwen2-gqa', sequences: 5, length: 1000 },
  ];
  for (const { fixture, sequences: count, length } of cases)
    for (const name of length < 100 ? ['reference', 'cpu'] : ['cpu'])
      it(`are those of the decoder, ${fixture}, ${count} sequences of ${length}, on ${name}`, async function () {
        this.timeout(120_000);
        const checkpoint = await openCheckpoint(fixtureFolder(fixture));
        const { rmsNormEps, vocabularySize } = checkpoint.config;
        const files = await Tensors.of(fixtureFolder(fixture));
        const weight = (layer: number, norm: string) => files.numbers(`model.layers.${layer}.${norm}.weight`);
        const random = new Random(length);
        const sequences = Array.from({ length: count }, () =>
          Int32Array.from({ length }, () => random.integer(0, vocabularySize - 1)),
        );
        const device = Device.open(name);
        const stream = device.createStream();
        const run = await CalibrationRun.start(checkpoint, device, stream, sequences);
        try {
          const read = async (tensor: Tensor) =>
            Float32Array.from(await stream.download(tensor, new Uint16Array(tensor.size)), fromBf16);
          const first = await run.enter(0);
          const found = { first: await read(first.gateUp), next: await read((await run.enter(1)).qkv) };
          // The last sequence: of those before it, nothing may be seen.
          const last = count - 1;
          const states = await observeStates(fixture, [...sequences[last]!]);
          const attended = states.get('embed')!.map((x, i) => x + states.get('layer.0.attn_out')![i]!);
          for (const [actual, expected] of [
            [found.first, normalized(attended, await weight(0, 'post_attention_layernorm'), rmsNormEps)],
            [found.next, normalized(states.get('layer.0.out')!, await weight(1, 'input_layernorm'), rmsNormEps)],
          ] as const) {
            const own = actual.subarray(last * expected.length);
            const difference = root(own.map((x, i) => x - expected[i]!));
            assert.ok(difference < 0.02 * root(expected), `off by ${difference} of ${root(expected)}`);
          }
        } finally {
          await run.dispose();
          stream.dispose();
          device.dispose();
        }
      });
});
