import { parseConfig } from '../checkpoint/config.js';
import { type Checkpoint, openCheckpoint } from '../checkpoint/folder.js';
import { type GenerationConfig, neutralGenerationConfig } from '../checkpoint/generationConfig.js';
import { describe } from '../checkpoint/jsonFile.js';
import type { LoadProgress } from '../checkpoint/loader.js';
import { qwen2Shapes } from '../checkpoint/shapes.js';
import { Engine } from '../engine/engine.js';
import { type EngineOptions, planMemory } from '../engine/memory.js';
import { planRandomWeights, planWeights, type WeightOptions, type WeightPlan } from '../model/plan.js';
import { freeBesideWeights, loadWeights, randomWeights, type Weights } from '../model/weights.js';
import { type Device, type DeviceOptions, openDevice } from '../native/device.js';
import { Qwen2Error, throwIfAborted } from '../native/errors.js';
import type { Stream } from '../native/stream.js';
import { hasTokenizer, loadTokenizer, type Tokenizer } from '../tokenizer/tokenizer.js';
import { Model } from './model.js';

export type { WeightOptions } from '../model/plan.js';

/** A model of any shape without a checkpoint, for benchmarks. */
export interface RandomModel {
  /** What config.json would hold, or the name of a known shape. */
  config: object | keyof typeof qwen2Shapes;
  weights: 'random';
  seed?: number;
}

export interface LoadOptions extends EngineOptions, DeviceOptions, WeightOptions {
  /** 'auto' (a usable GPU, or else the CPU), 'cuda', 'cuda:1', 'cpu' or 'reference'. Default 'auto'. */
  device?: string | undefined;
  /** dtype of activations and KV cache: 'bf16', or 'f32' on the reference device. Default 'bf16'. */
  dtype?: 'bf16' | 'f32' | undefined;
  /**
   * Multiplies int4 and int8 weights with activations as they are. Default false: the CPU rounds activations to 8 bits
   * first, with a scale for every 128 of them; GPUs are always exact.
   */
  exact?: boolean | undefined;
  /**
   * Gives a request the same tokens and the same bits of log-probabilities alone, in any company, whatever of it is found in
   * the cache, and when it is computed anew after it gave up its place: greedy, or with a seed. Default false: so it is on
   * the CPU all the same and costs nothing there; on GPUs it costs speed (docs/batch.md).
   */
  batchInvariant?: boolean | undefined;
  /** Replays recorded steps when tokens are generated one by one. Default true; false to measure what it is worth. */
  capture?: boolean | undefined;
  /** Called as tensors arrive on the device. */
  onProgress?: ((progress: LoadProgress) => void) | undefined;
  /** Ends the loading with an error of code `aborted`, and returns the memory. */
  signal?: AbortSignal | undefined;
}

/** What each option must be, where its range is not checked by those who use it. */
const optionTypes: Record<keyof LoadOptions, { expected: string; holds: (value: unknown) => boolean }> = {
  device: { expected: 'a string', holds: (value) => typeof value === 'string' },
  dtype: { expected: "'bf16' or 'f32'", holds: (value) => value === 'bf16' || value === 'f32' },
  quantize: { expected: "'int4'", holds: (value) => value === 'int4' },
  lmHead: { expected: "'int8'", holds: (value) => value === 'int8' },
  exact: { expected: 'true or false', holds: (value) => typeof value === 'boolean' },
  batchInvariant: { expected: 'true or false', holds: (value) => typeof value === 'boolean' },
  capture: { expected: 'true or false', holds: (value) => typeof value === 'boolean' },
  onProgress: { expected: 'a function', holds: (value) => typeof value === 'function' },
  signal: { expected: 'an AbortSignal', holds: (value) => value instanceof AbortSignal },
  threads: { expected: 'a number', holds: (value) => typeof value === 'number' },
  simd: { expected: 'a string', holds: (value) => typeof value === 'string' },
  contextLength: { expected: 'a number', holds: (value) => typeof value === 'number' },
  maxSequences: { expected: 'a number', holds: (value) => typeof value === 'number' },
  cacheTokens: { expected: 'a number', holds: (value) => typeof value === 'number' },
  kvCache: { expected: 'an object', holds: (value) => typeof value === 'object' && value !== null },
  stepTokens: { expected: 'a number', holds: (value) => typeof value === 'number' },
};

/**
 * Loads a Hugging Face folder of a Qwen2 (config.json, *.safetensors, and for text tokenizer.json and
 * tokenizer_config.json) onto a device.
 *
 * @throws not_found, invalid_checkpoint or unsupported for the folder; device_unavailable; out_of_memory; aborted;
 *   invalid_argument for an option that is unknown or out of range
 */
export async function loadModel(source: string | RandomModel, options: LoadOptions = {}): Promise<Model> {
  const started = performance.now();
  checkOptions(options);
  throwIfAborted(options.signal, 'Loading');
  const origin = await openOrigin(source, options.signal);
  const device = await openDevice(options.device ?? 'auto', options);
  const stream = device.createStream();
  let weights: Weights | undefined;
  let tokenizer: Tokenizer | undefined;
  try {
    const weightPlan = await origin.planWeights(options);
    const activation = options.dtype ?? 'bf16';
    if (activation === 'f32' && device.name !== 'reference')
      throw new Qwen2Error('unsupported', `dtype 'f32' works on the device 'reference' only, not on '${device.name}'`);
    const plan = planMemory(device, weightPlan, activation, freeBesideWeights(device, weightPlan), options);
    const loading = [origin.loadWeights(weightPlan, device, stream, options), origin.loadTokenizer()] as const;
    const [loadedWeights, loadedTokenizer] = await Promise.allSettled(loading);
    if (loadedTokenizer.status === 'fulfilled') tokenizer = loadedTokenizer.value;
    if (loadedWeights.status === 'rejected') throw loadedWeights.reason;
    weights = loadedWeights.value;
    if (loadedTokenizer.status === 'rejected') throw loadedTokenizer.reason;
    throwIfAborted(options.signal, 'Loading');
    const { capture, exact = false, batchInvariant = false } = options;
    const precision = { exact, batchInvariant };
    const engine = await Engine.create({ device, stream, weights, precision, plan, activation, capture });
    const loadSeconds = (performance.now() - started) / 1000;
    const { generationConfig } = origin;
    return new Model({
      config: weightPlan.config,
      generationConfig,
      device,
      stream,
      weights,
      engine,
      tokenizer,
      batchInvariant,
      loadSeconds,
    });
  } catch (error) {
    await Promise.all([weights?.dispose(), tokenizer?.dispose()]);
    stream.dispose();
    device.dispose();
    throw error;
  }
}

/** Where a model comes from. */
interface Origin {
  generationConfig: GenerationConfig;
  planWeights(options: WeightOptions): Promise<WeightPlan>;
  loadWeights(plan: WeightPlan, device: Device, stream: Stream, options: LoadOptions): Promise<Weights>;
  loadTokenizer(): Promise<Tokenizer | undefined>;
}

async function openOrigin(source: string | RandomModel, signal: AbortSignal | undefined): Promise<Origin> {
  if (typeof source === 'string') return fromCheckpoint(await openCheckpoint(source, { signal }), signal);
  if (typeof source === 'object' && source?.weights === 'random') return fromShape(source);
  throw new Qwen2Error(
    'invalid_argument',
    `loadModel takes the path of a checkpoint's folder, or { config, weights: 'random' }; got ${describe(source)}`,
  );
}

function fromCheckpoint(checkpoint: Checkpoint, signal: AbortSignal | undefined): Origin {
  return {
    generationConfig: checkpoint.generationConfig,
    planWeights: (options) => planWeights(checkpoint, options),
    loadWeights: (plan, device, stream, options) => loadWeights(checkpoint, device, stream, { ...options, plan }),
    async loadTokenizer() {
      return (await hasTokenizer(checkpoint.folder)) ? loadTokenizer(checkpoint.folder, { signal }) : undefined;
    },
  };
}

function fromShape({ config: shape, seed }: RandomModel): Origin {
  if (typeof shape === 'string' && !Object.hasOwn(qwen2Shapes, shape))
    throw new Qwen2Error(
      'invalid_argument',
      `There is no shape '${shape}'; known are ${Object.keys(qwen2Shapes).join(', ')}`,
    );
  const config = parseConfig(typeof shape === 'string' ? qwen2Shapes[shape] : shape, 'config');
  return {
    generationConfig: { ...neutralGenerationConfig, eosTokenIds: [] },
    planWeights: async (options) => planRandomWeights(config, options),
    loadWeights: (plan, device, stream) => randomWeights(plan, device, stream, seed),
    loadTokenizer: async () => undefined,
  };
}

function checkOptions(options: LoadOptions): void {
  if (typeof options !== 'object' || options === null)
    throw new Qwen2Error('invalid_argument', `loadModel's options must be an object; got ${describe(options)}`);
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(optionTypes, name))
      throw new Qwen2Error(
        'invalid_argument',
        `There is no option '${name}'; known are ${Object.keys(optionTypes).join(', ')}`,
      );
    const { expected, holds } = optionTypes[name as keyof LoadOptions];
    if (value !== undefined && !holds(value))
      throw new Qwen2Error('invalid_argument', `${name} is ${describe(value)}; it must be ${expected}`);
  }
}
