import assert from 'node:assert/strict';
import { mkdtemp, readdir, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type LoadOptions, loadModel } from '../../lib/generation/loadModel.js';
import type { Model } from '../../lib/generation/model.js';
import {
  denseFixtures,
  Expected,
  type ExpectedPrompt,
  type FixtureName,
  fixtureFolder,
  int4Fixtures,
} from '../support/checkpoints.js';
import { assertClose } from '../support/compare.js';
import { dequantized } from '../support/dequantize.js';
import { type DeviceCase, devicesUnderTest, reference, requireDevice } from '../support/opBench.js';
import { observeStates } from '../support/states.js';

/** Two float32 implementations agree within 2e-5 on these logits, whose spread is 3. */
const float32Tolerance = 1e-3;

/**
 * Two bf16 implementations that round at the same places, but sum in another order, each err from float32 as the other
 * does: as the largest of as many logits, so twice Hugging Face's own error is room for both.
 */
const bf16Tolerance = ({ low_precision_error }: ExpectedPrompt) => 2 * low_precision_error.bf16;

/** All prompts of the fixtures fit: 700 tokens of qwen2-yarn and 32 more. */
const options = { contextLength: 768, cacheTokens: 4096 } satisfies LoadOptions;

const optionsOf = ({ name, simd, threads }: DeviceCase): LoadOptions => ({ ...options, device: name, simd, threads });

interface Loaded {
  fixture: FixtureName;
  expected: Expected;
  model: Model;
}

async function lastLogits(model: Model, { tokens }: ExpectedPrompt): Promise<Float32Array> {
  return (await model.logits(tokens)).slice(-model.config.vocabularySize);
}

/** The prompts in one batch, as they would come to a server. */
async function assertGreedy({ expected, model }: Loaded): Promise<void> {
  const results = await Promise.all(
    expected.prompts.map(({ tokens }) => model.generate({ tokens }, { temperature: 0, maxTokens: 32 }).result()),
  );
  for (const [i, { name, greedy }] of expected.prompts.entries()) assert.deepEqual(results[i]!.tokens, greedy, name);
}

async function assertLogits({ expected, model }: Loaded, tolerance: (prompt: ExpectedPrompt) => number): Promise<void> {
  for (const prompt of expected.prompts) {
    const wanted = await expected.tensor(`${prompt.name}.last_logits`);
    assertClose(await lastLogits(model, prompt), wanted, tolerance(prompt), `${prompt.name}.last_logits`);
  }
  const prompt = expected.allLogitsPrompt;
  const wanted = await expected.tensor(`${prompt.name}.all_logits`);
  assertClose(await model.logits(prompt.tokens), wanted, tolerance(prompt), `${prompt.name}.all_logits`);
}

function describeFixture(
  fixture: FixtureName,
  loadOptions: LoadOptions,
  device: DeviceCase,
  body: (of: () => Loaded) => void,
) {
  describe(fixture, () => {
    let loaded: Loaded;
    before(async function () {
      requireDevice(this, device);
      loaded = {
        fixture,
        expected: await Expected.read(fixture),
        model: await loadModel(fixtureFolder(fixture), loadOptions),
      };
    });
    after(() => loaded?.model.dispose());
    body(() => loaded);
  });
}

describe("the decoder against Hugging Face's", () => {
  describe('reference in float32', () => {
    for (const fixture of denseFixtures)
      describeFixture(fixture, { ...options, device: 'reference', dtype: 'f32' }, reference, (of) => {
        it('logits', () => assertLogits(of(), () => float32Tolerance));

        it('greedy continuations', () => assertGreedy(of()));

        it('states of every layer', async () => {
          const { expected } = of();
          const states = await observeStates(fixture, expected.hiddenPrompt.tokens);
          assert.deepEqual([...states.keys()].sort(), expected.stateNames.sort());
          for (const [name, state] of states) {
            const wanted = await expected.tensor(`${expected.hiddenPrompt.name}.${name}`);
            assertClose(state, wanted, stateTolerance(wanted), name);
          }
        });
      });
  });

  for (const device of [reference, ...devicesUnderTest])
    describe(`${device.title} in bf16`, () => {
      for (const fixture of denseFixtures)
        describeFixture(fixture, optionsOf(device), device, (of) => {
          it('logits', () => assertLogits(of(), bf16Tolerance));
          it('greedy continuations', () => assertGreedy(of()));
        });
    });
});

/** As far off as logits may be, on the scale of the state. */
function stateTolerance(state: Float32Array): number {
  const spread = Math.sqrt(state.reduce((sum, x) => sum + x * x, 0) / state.length);
  return (float32Tolerance * spread) / 3;
}

describe("4-bit checkpoints against Hugging Face's code on their weights in float32", () => {
  // The embedding table and the LM head, f16 in the checkpoint, are rounded to bf16: what remains where the rest is exact.
  const withRoundedTable = () => 0.05;
  // Activations of 8 bits add their own error to that of bf16.
  const withRoundedActivations = ({ low_precision_error }: ExpectedPrompt) => 4 * low_precision_error.bf16;

  const ways: { title: string; device: DeviceCase; load: LoadOptions; tolerance: (of: ExpectedPrompt) => number }[] = [
    { title: 'reference in float32', device: reference, load: { dtype: 'f32' }, tolerance: withRoundedTable },
    ...[reference, ...devicesUnderTest].flatMap((device) => [
      { title: `${device.title}, exact`, device, load: { exact: true }, tolerance: bf16Tolerance },
      ...(device.name === 'cpu' ? [{ title: device.title, device, load: {}, tolerance: withRoundedActivations }] : []),
    ]),
  ];

  for (const { title, device, load, tolerance } of ways)
    describe(title, () => {
      for (const fixture of int4Fixtures)
        describeFixture(fixture, { ...optionsOf(device), ...load }, device, (of) => {
          it('logits', () => assertLogits(of(), tolerance));
          it('greedy continuations', () => assertGreedy(of()));
        });
    });

  for (const fixture of int4Fixtures)
    it(`${fixture}: states of every layer`, async () => {
      const expected = await Expected.read(fixture);
      const states = await observeStates(fixture, expected.hiddenPrompt.tokens);
      assert.deepEqual([...states.keys()].sort(), expected.stateNames.sort());
      for (const [name, state] of states) {
        const wanted = await expected.tensor(`${expected.hiddenPrompt.name}.${name}`);
        assertClose(state, wanted, 50 * stateTolerance(wanted), name);
      }
    });

  for (const fixture of int4Fixtures)
    it(`${fixture}: a matrix as their own code dequantizes it, to the last bit`, async () => {
      const expected = await Expected.read(fixture);
      const [module] = expected.dequantizedModules;
      const transposed = await expected.tensor(`dequant.${module}`);
      assert.deepEqual(await dequantized(fixture, module!), transposed);
    });
});

describe('what config.json says', () => {
  const alterations: { fixture: FixtureName; title: string; fields: Record<string, unknown> }[] = [
    { fixture: 'qwen2-tied', title: 'rms_norm_eps', fields: { rms_norm_eps: 1e-5 } },
    { fixture: 'qwen2-tied', title: 'rope_theta', fields: { rope_theta: 5e5 } },
    { fixture: 'qwen2-sliding', title: 'sliding_window, one more', fields: { sliding_window: 17 } },
    { fixture: 'qwen2-sliding', title: 'sliding_window, one fewer', fields: { sliding_window: 15 } },
    { fixture: 'qwen2-sliding', title: 'use_sliding_window', fields: { use_sliding_window: false } },
    { fixture: 'qwen2-sliding', title: 'max_window_layers, one more', fields: { max_window_layers: 3 } },
    { fixture: 'qwen2-sliding', title: 'max_window_layers, none', fields: { max_window_layers: 0 } },
    ...Object.entries({
      'the factor': { factor: 4.1 },
      'the original length': { original_max_position_embeddings: 1024 },
      'the attention factor once instead of squared': { attention_factor: Math.sqrt(0.1 * Math.log(4) + 1) },
      'the attention factor': { attention_factor: 1 },
      beta_fast: { beta_fast: 16 },
      beta_slow: { beta_slow: 2 },
    }).map(([title, scaling]) => ({
      fixture: 'qwen2-yarn' as const,
      title: `yarn, ${title}`,
      fields: { rope_scaling: { type: 'yarn', factor: 4, original_max_position_embeddings: 512, ...scaling } },
    })),
  ];

  for (const { fixture, title, fields } of alterations)
    it(`${title} moves the logits further than the tolerance`, () =>
      withAltered(fixture, fields, async (folder) => {
        const expected = await Expected.read(fixture);
        const model = await loadModel(folder, { ...options, device: 'reference', dtype: 'f32' });
        try {
          const prompt = expected.prompts.find(({ name }) => name === 'len211')!;
          const right = await expected.tensor('len211.last_logits');
          const wrong = await lastLogits(model, prompt);
          const furthest = Math.max(...right.map((logit, i) => Math.abs(logit - wrong[i]!)));
          assert.ok(furthest > 2 * float32Tolerance, `the logits moved by ${furthest} only`);
        } finally {
          await model.dispose();
        }
      }));
});

/** A copy of a fixture with other fields in its config.json. */
async function withAltered(
  fixture: FixtureName,
  fields: object,
  body: (folder: string) => Promise<void>,
): Promise<void> {
  const source = fixtureFolder(fixture);
  const folder = await mkdtemp(join(tmpdir(), 'qwen2-altered-'));
  try {
    for (const file of await readdir(source)) await symlink(join(source, file), join(folder, file));
    const config = JSON.parse(await readFile(join(source, 'config.json'), 'utf8'));
    await rm(join(folder, 'config.json'));
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, ...fields }));
    await body(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}
