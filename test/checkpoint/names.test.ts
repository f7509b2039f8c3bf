import assert from 'node:assert/strict';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { qwen2Shapes } from '../../lib/checkpoint/shapes.js';
import { sourceTensors } from '../../lib/model/names.js';
import { parameterCount } from '../../lib/model/weights.js';
import { smallConfig } from '../support/checkpointFiles.js';

/** Two heads of 32, one KV head, hidden 64, intermediate 96, 128 words. */
const parse = (changes: object = {}) =>
  parseConfig({ ...smallConfig, num_hidden_layers: 1, ...changes }, 'config.json');
const namesOf = (changes: object = {}) => sourceTensors(parse(changes)).map(({ name }) => name);

describe('names of a checkpoint’s tensors', () => {
  it('are those of Hugging Face’s Qwen2ForCausalLM, with shapes [out, in]', () => {
    const shapes = sourceTensors(parse()).map(({ name, shape }) => [name, shape]);
    assert.deepEqual(Object.fromEntries(shapes), {
      'model.embed_tokens.weight': [128, 64],
      'model.layers.0.input_layernorm.weight': [64],
      'model.layers.0.self_attn.q_proj.weight': [64, 64],
      'model.layers.0.self_attn.k_proj.weight': [32, 64],
      'model.layers.0.self_attn.v_proj.weight': [32, 64],
      'model.layers.0.self_attn.q_proj.bias': [64],
      'model.layers.0.self_attn.k_proj.bias': [32],
      'model.layers.0.self_attn.v_proj.bias': [32],
      'model.layers.0.self_attn.o_proj.weight': [64, 64],
      'model.layers.0.post_attention_layernorm.weight': [64],
      'model.layers.0.mlp.gate_proj.weight': [96, 64],
      'model.layers.0.mlp.up_proj.weight': [96, 64],
      'model.layers.0.mlp.down_proj.weight': [64, 96],
      'model.norm.weight': [64],
      'lm_head.weight': [128, 64],
    });
  });

  it('of tied embeddings lack the LM head, whose weight is the table', () => {
    assert.deepEqual(namesOf({ tie_word_embeddings: true }), namesOf().slice(0, -1));
    assert.equal(sourceTensors(parse({ tie_word_embeddings: true }))[0]?.target, 'lmHead');
  });

  it('of heads that are wider than hidden / heads have their own width', () => {
    const shapes = new Map(sourceTensors(parse({ head_dim: 128 })).map(({ name, shape }) => [name, shape]));
    assert.deepEqual(shapes.get('model.layers.0.self_attn.q_proj.weight'), [256, 64]);
    assert.deepEqual(shapes.get('model.layers.0.self_attn.v_proj.bias'), [128]);
    assert.deepEqual(shapes.get('model.layers.0.self_attn.o_proj.weight'), [64, 256]);
  });

  it('fill the tensors of the device without gap or overlap, rows of q, k and v one behind the other', () => {
    const ends = new Map<string, number>();
    for (const { name, target, rowOffset, gateOrUp, shape } of sourceTensors(parse({ num_hidden_layers: 2 }))) {
      const part = `${target}${gateOrUp ?? ''}`;
      assert.equal(rowOffset, ends.get(part) ?? 0, name);
      ends.set(part, rowOffset + shape[0]!);
    }
    const rows = { qkv: 64 + 2 * 32, qkvBias: 64 + 2 * 32, gateUp0: 96, gateUp1: 96, output: 64, down: 64 };
    for (const [part, expected] of Object.entries(rows)) assert.equal(ends.get(`layers.1.${part}`), expected, part);
  });

  it('number every layer', () => {
    const layers = namesOf({ num_hidden_layers: 3 }).filter((name) => name.endsWith('mlp.down_proj.weight'));
    assert.deepEqual(
      layers,
      [0, 1, 2].map((layer) => `model.layers.${layer}.mlp.down_proj.weight`),
    );
  });

  it('hold as many parameters as the models are published with', () => {
    const counts = Object.entries(qwen2Shapes).map(([name, shape]) => [name, parameterCount(parseConfig(shape, name))]);
    assert.deepEqual(Object.fromEntries(counts), {
      'qwen2-0.5b': 494_032_768,
      'qwen2-1.5b': 1_543_714_304,
      'qwen2-7b': 7_615_616_512,
      'qwen2-72b': 72_706_203_648,
    });
  });
});
