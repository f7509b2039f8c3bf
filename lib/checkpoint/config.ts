import { join } from 'node:path';
import { Qwen2Error } from '../native/errors.js';
import { describe, JsonFields, readJson } from './jsonFile.js';
import { type QuantizationConfig, readQuantization } from './quantization.js';
import { plainRope, type RopeConfig, readYarn, type YarnScaling, yarnRope } from './rope.js';

/** A model's config.json, with Hugging Face's defaults filled in (transformers' Qwen2Config). */
export interface Qwen2Config {
  modelType: 'qwen2';
  hiddenSize: number;
  intermediateSize: number;
  numHiddenLayers: number;
  numAttentionHeads: number;
  numKvHeads: number;
  headDim: number;
  /** Width of the logits; the tokenizer may know fewer ids. */
  vocabularySize: number;
  maxPositionEmbeddings: number;
  rmsNormEps: number;
  ropeTheta: number;
  rope: RopeConfig;
  /** Whether the LM head's weight is the embedding table. */
  tieWordEmbeddings: boolean;
  /** For each layer: how many keys a query sees, itself included; undefined: all before it. */
  slidingWindows: (number | undefined)[];
  /** Tokens that the model can take in at most: with YaRN, its factor × the length that it was trained for. */
  contextLength: number;
  bosTokenId: number | undefined;
  eosTokenIds: number[];
  /** dtype in which the weights were saved, as the file says. */
  sourceDtype: string | undefined;
  /** Of a checkpoint with 4-bit weights. */
  quantization: QuantizationConfig | undefined;
}

/** Above these, a config is damage: the largest Qwen2 has 80 layers, 8192, 29568 and 152064. */
const limits = { layers: 4096, width: 2 ** 20, vocabulary: 2 ** 24, heads: 4096, headDim: 1024, positions: 2 ** 28 };

/** Reads a folder's config.json. @throws not_found, invalid_checkpoint, unsupported, io_error */
export async function readConfig(folder: string): Promise<Qwen2Config> {
  const path = join(folder, 'config.json');
  return parseConfig(await readJson(path), path);
}

/**
 * Checks what config.json holds, and gives it this package's names.
 *
 * @param json the parsed file
 * @param where what messages call it
 * @throws invalid_checkpoint naming the field, its value and what was expected; unsupported for another architecture
 */
export function parseConfig(json: unknown, where: string): Qwen2Config {
  const fields = new JsonFields(json, where);
  requireSupported(fields, where);
  const shape = readShape(fields, where);
  const maxPositionEmbeddings = fields.integer('max_position_embeddings', { fallback: 32768, max: limits.positions });
  const { theta, yarn } = readRope(fields, where, maxPositionEmbeddings);
  return {
    modelType: 'qwen2',
    ...shape,
    maxPositionEmbeddings,
    rmsNormEps: fields.number('rms_norm_eps', { fallback: 1e-6, min: 1e-12, max: 1 }),
    ropeTheta: theta,
    rope: yarn ? yarnRope(shape.headDim, theta, yarn) : plainRope(shape.headDim, theta),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    slidingWindows: readSlidingWindows(fields, shape.numHiddenLayers),
    contextLength: yarn ? Math.floor(yarn.originalLength * yarn.factor) : maxPositionEmbeddings,
    bosTokenId: fields.tokenIds('bos_token_id')?.[0],
    eosTokenIds: fields.tokenIds('eos_token_id') ?? [],
    sourceDtype: fields.text('dtype', fields.text('torch_dtype', '')) || undefined,
    quantization: readQuantization(fields.object('quantization_config'), where),
  };
}

function requireSupported(fields: JsonFields, where: string): void {
  const refuse = (what: string) => {
    throw new Qwen2Error('unsupported', `${where}: ${what}; qwen2-node runs dense Qwen2, Qwen1.5 and Qwen2.5`);
  };
  const modelType = fields.text('model_type');
  if (modelType !== 'qwen2') refuse(`model_type is ${describe(modelType)}`);
  const activation = fields.text('hidden_act', 'silu');
  if (activation !== 'silu') refuse(`hidden_act is ${describe(activation)}`);
}

function readShape(fields: JsonFields, where: string) {
  const hiddenSize = fields.integer('hidden_size', { max: limits.width });
  const numAttentionHeads = fields.integer('num_attention_heads', { max: limits.heads });
  const numKvHeads = fields.integer('num_key_value_heads', { fallback: numAttentionHeads, max: limits.heads });
  if (numAttentionHeads % numKvHeads !== 0)
    throw fields.wrong('num_key_value_heads', `a divisor of num_attention_heads, ${numAttentionHeads}`);
  if (fields.value('head_dim') === undefined && hiddenSize % numAttentionHeads !== 0)
    throw fields.wrong('num_attention_heads', `a divisor of hidden_size, ${hiddenSize}, as there is no head_dim`);
  const headDim = fields.integer('head_dim', { fallback: hiddenSize / numAttentionHeads, max: limits.headDim });
  if (headDim % 2 !== 0)
    throw new Qwen2Error(
      'invalid_checkpoint',
      `${where}: heads of ${headDim} can't be rotated; expected an even head_dim`,
    );
  return {
    hiddenSize,
    intermediateSize: fields.integer('intermediate_size', { max: limits.width }),
    numHiddenLayers: fields.integer('num_hidden_layers', { max: limits.layers }),
    numAttentionHeads,
    numKvHeads,
    headDim,
    vocabularySize: fields.integer('vocab_size', { max: limits.vocabulary }),
  };
}

/** `rope_theta` and `rope_scaling`, or both in `rope_parameters`, as transformers writes them from version 5 on. */
function readRope(
  fields: JsonFields,
  where: string,
  maxPositionEmbeddings: number,
): { theta: number; yarn?: YarnScaling } {
  const thetaRange = { min: 1 + 1e-6, max: 1e12 };
  const scaling = fields.object('rope_parameters') ?? fields.object('rope_scaling');
  const outer = fields.number('rope_theta', { fallback: 10000, ...thetaRange });
  const theta = scaling ? scaling.number('rope_theta', { fallback: outer, ...thetaRange }) : outer;
  const type = scaling ? scaling.text('rope_type', scaling.text('type', 'default')) : 'default';
  const partial = (scaling ?? fields).number('partial_rotary_factor', { fallback: 1 });
  if (partial !== 1 || (type !== 'default' && type !== 'yarn'))
    throw new Qwen2Error(
      'unsupported',
      `${where}: rotary embedding of type ${describe(type)}, on ${partial} of each head; supported are "default" and "yarn", on all of it`,
    );
  return type === 'yarn' && scaling ? { theta, yarn: readYarn(scaling, maxPositionEmbeddings) } : { theta };
}

/**
 * Layers slide from max_window_layers on, if use_sliding_window says so and sliding_window is not null; newer files list
 * each layer's type.
 */
function readSlidingWindows(fields: JsonFields, layers: number): (number | undefined)[] {
  const slides = fields.boolean('use_sliding_window', false);
  const window =
    slides && !fields.isNull('sliding_window') ? fields.integer('sliding_window', { fallback: 4096 }) : undefined;
  const from = fields.integer('max_window_layers', { fallback: 28, min: 0 });
  const types = fields.value('layer_types');
  if (types === undefined) return Array.from({ length: layers }, (_, layer) => (layer >= from ? window : undefined));
  const known = ['full_attention', 'sliding_attention'];
  if (!Array.isArray(types) || types.length !== layers || !types.every((type) => known.includes(type)))
    throw fields.wrong('layer_types', `${layers} entries, each ${known.join(' or ')}`);
  if (window === undefined && types.includes('sliding_attention'))
    throw fields.wrong('layer_types', 'no sliding_attention, as use_sliding_window and sliding_window set none');
  return types.map((type) => (type === 'sliding_attention' ? window : undefined));
}
