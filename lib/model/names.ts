/**
 * The checkpoint's names (Hugging Face's Qwen2ForCausalLM), in one table. Each weight says what part of the model its rows
 * become, and the shape it must have in the file.
 */
import type { Qwen2Config } from '../checkpoint/config.js';

/** What the model is made of: each becomes one tensor on the device. */
export type Part = 'norm' | 'qkv' | 'qkvBias' | 'output' | 'gateUp' | 'down' | 'embedding' | 'lmHead';

/** Parts that are one tensor on the device for several in the checkpoint. */
const fused: ReadonlySet<Part> = new Set(['qkv', 'qkvBias', 'gateUp']);

export interface SourceTensor {
  /** Its name in the checkpoint. */
  name: string;
  shape: number[];
  part: Part;
  /** A key for the device tensor that it fills, alone or with others. */
  target: string;
  /** A key for a device tensor of its own, where it can't be one with the others of its target. */
  ownTarget: string;
  /** The row of the target that its first row becomes; within gate or within up for those. */
  rowOffset: number;
  /** For gateUp: 0 gate, 1 up. */
  gateOrUp?: 0 | 1;
}

export function layerKey(layer: number, part: string): string {
  return `layers.${layer}.${part}`;
}

/** Every tensor that a checkpoint of this config holds, in the order in which the decoder uses them. */
export function sourceTensors(config: Qwen2Config): SourceTensor[] {
  const { hiddenSize: H, vocabularySize: V, numHiddenLayers, tieWordEmbeddings } = config;
  const embedding: SourceTensor = {
    name: 'model.embed_tokens.weight',
    shape: [V, H],
    part: tieWordEmbeddings ? 'lmHead' : 'embedding',
    target: tieWordEmbeddings ? 'lmHead' : 'embedding',
    ownTarget: tieWordEmbeddings ? 'lmHead' : 'embedding',
    rowOffset: 0,
  };
  const layers = Array.from({ length: numHiddenLayers }, (_, layer) => layerTensors(config, layer)).flat();
  const finalNorm: SourceTensor = {
    name: 'model.norm.weight',
    shape: [H],
    part: 'norm',
    target: 'norm',
    ownTarget: 'norm',
    rowOffset: 0,
  };
  const lmHead: SourceTensor = {
    name: 'lm_head.weight',
    shape: [V, H],
    part: 'lmHead',
    target: 'lmHead',
    ownTarget: 'lmHead',
    rowOffset: 0,
  };
  return [embedding, ...layers, finalNorm, ...(tieWordEmbeddings ? [] : [lmHead])];
}

function layerTensors(config: Qwen2Config, layer: number): SourceTensor[] {
  const { hiddenSize: H, intermediateSize: I, numAttentionHeads, numKvHeads, headDim } = config;
  const q = numAttentionHeads * headDim;
  const kv = numKvHeads * headDim;
  const tensor = (name: string, shape: number[], part: Part, own: string, rowOffset = 0): SourceTensor => ({
    name: `model.layers.${layer}.${name}`,
    shape,
    part,
    target: layerKey(layer, fused.has(part) ? part : own),
    ownTarget: layerKey(layer, own),
    rowOffset,
  });
  return [
    tensor('input_layernorm.weight', [H], 'norm', 'inputNorm'),
    tensor('self_attn.q_proj.weight', [q, H], 'qkv', 'q'),
    tensor('self_attn.k_proj.weight', [kv, H], 'qkv', 'k', q),
    tensor('self_attn.v_proj.weight', [kv, H], 'qkv', 'v', q + kv),
    tensor('self_attn.q_proj.bias', [q], 'qkvBias', 'qBias'),
    tensor('self_attn.k_proj.bias', [kv], 'qkvBias', 'kBias', q),
    tensor('self_attn.v_proj.bias', [kv], 'qkvBias', 'vBias', q + kv),
    tensor('self_attn.o_proj.weight', [H, q], 'output', 'output'),
    tensor('post_attention_layernorm.weight', [H], 'norm', 'postAttentionNorm'),
    { ...tensor('mlp.gate_proj.weight', [I, H], 'gateUp', 'gate'), gateOrUp: 0 },
    { ...tensor('mlp.up_proj.weight', [I, H], 'gateUp', 'up'), gateOrUp: 1 },
    tensor('mlp.down_proj.weight', [H, I], 'down', 'down'),
  ];
}

/** The module that a weight belongs to, as its name begins. */
export function moduleOf({ name }: SourceTensor): string {
  return name.replace(/\.(weight|bias)$/, '');
}
