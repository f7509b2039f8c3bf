import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parseConfig } from '../../lib/checkpoint/config.js';
import { qwen2Shapes } from '../../lib/checkpoint/shapes.js';
import { denseFixtures, fixtureFolder } from '../support/checkpoints.js';
import { assertThrowsQwen2 } from '../support/errors.js';

/** What config.json of Qwen2-7B-Instruct holds. */
const qwen2: Record<string, unknown> = {
  architectures: ['Qwen2ForCausalLM'],
  attention_dropout: 0.0,
  bos_token_id: 151643,
  eos_token_id: 151645,
  hidden_act: 'silu',
  hidden_size: 3584,
  initializer_range: 0.02,
  intermediate_size: 18944,
  max_position_embeddings: 32768,
  max_window_layers: 28,
  model_type: 'qwen2',
  num_attention_heads: 28,
  num_hidden_layers: 28,
  num_key_value_heads: 4,
  rms_norm_eps: 1e-6,
  rope_theta: 1000000.0,
  sliding_window: 131072,
  tie_word_embeddings: false,
  torch_dtype: 'bfloat16',
  transformers_version: '4.41.2',
  use_cache: true,
  use_sliding_window: false,
  vocab_size: 152064,
};

/** `quantization_config` as AutoAWQ and AutoGPTQ write it. */
const awq = {
  bits: 4,
  group_size: 128,
  modules_to_not_convert: null,
  quant_method: 'awq',
  version: 'gemm',
  zero_point: true,
};
const gptq = { bits: 4, damp_percent: 0.01, desc_act: false, group_size: 128, quant_method: 'gptq', sym: true };

/** Parses the 7B's config.json with these fields in the place of its own; undefined removes a field. */
const parse = (changes: Record<string, unknown> = {}) =>
  parseConfig(JSON.parse(JSON.stringify({ ...qwen2, ...changes })), 'config.json');

describe('config.json', () => {
  it('of Qwen2: every field by this package’s name', () => {
    const { rope, slidingWindows, ...rest } = parse();
    assert.deepEqual(rest, {
      modelType: 'qwen2',
      hiddenSize: 3584,
      intermediateSize: 18944,
      numHiddenLayers: 28,
      numAttentionHeads: 28,
      numKvHeads: 4,
      headDim: 128,
      vocabularySize: 152064,
      maxPositionEmbeddings: 32768,
      rmsNormEps: 1e-6,
      ropeTheta: 1e6,
      tieWordEmbeddings: false,
      contextLength: 32768,
      bosTokenId: 151643,
      eosTokenIds: [151645],
      sourceDtype: 'bfloat16',
      quantization: undefined,
    });
    assert.equal(rope.inverseFrequencies.length, 64);
    assert.deepEqual(slidingWindows, new Array(28).fill(undefined));
  });

  const variants: { of: string; changes: Record<string, unknown>; expected: Record<string, unknown> }[] = [
    {
      of: 'Qwen2-0.5B: tied embeddings, heads of 64',
      changes: { hidden_size: 896, num_attention_heads: 14, num_key_value_heads: 2, tie_word_embeddings: true },
      expected: { headDim: 64, numKvHeads: 2, tieWordEmbeddings: true },
    },
    {
      of: 'Qwen1.5-7B: as many KV heads as heads',
      changes: { hidden_size: 4096, num_attention_heads: 32, num_key_value_heads: 32, eos_token_id: 151643 },
      expected: { numAttentionHeads: 32, numKvHeads: 32, headDim: 128, eosTokenIds: [151643] },
    },
    {
      of: 'Qwen2.5-72B: eps 1e-5',
      changes: { hidden_size: 8192, num_attention_heads: 64, num_key_value_heads: 8, rms_norm_eps: 1e-5 },
      expected: { numAttentionHeads: 64, numKvHeads: 8, headDim: 128, rmsNormEps: 1e-5 },
    },
    {
      of: 'a model with a head_dim that is not hidden_size / num_attention_heads',
      changes: { hidden_size: 1000, num_attention_heads: 6, num_key_value_heads: 2, head_dim: 256 },
      expected: { headDim: 256, hiddenSize: 1000 },
    },
    {
      of: 'transformers 5: dtype, rope_parameters and layer_types',
      changes: {
        torch_dtype: undefined,
        dtype: 'float16',
        rope_theta: undefined,
        rope_parameters: { rope_theta: 500000.0, rope_type: 'default' },
        layer_types: new Array(28).fill('full_attention'),
      },
      expected: { sourceDtype: 'float16', ropeTheta: 500000 },
    },
    {
      of: 'a model with several end tokens',
      changes: { eos_token_id: [151645, 151643] },
      expected: { eosTokenIds: [151645, 151643] },
    },
  ];
  for (const { of, changes, expected } of variants)
    it(`of ${of}`, () => {
      const config: object = parse(changes);
      for (const [name, value] of Object.entries(expected)) assert.deepEqual(Reflect.get(config, name), value, name);
    });

  describe('fields that are left out or null', () => {
    const byDefault: [field: string, name: string, value: unknown][] = [
      ['num_key_value_heads', 'numKvHeads', 28],
      ['head_dim', 'headDim', 128],
      ['max_position_embeddings', 'maxPositionEmbeddings', 32768],
      ['rms_norm_eps', 'rmsNormEps', 1e-6],
      ['rope_theta', 'ropeTheta', 10000],
      ['tie_word_embeddings', 'tieWordEmbeddings', false],
      ['bos_token_id', 'bosTokenId', undefined],
      ['eos_token_id', 'eosTokenIds', []],
      ['torch_dtype', 'sourceDtype', undefined],
      ['use_sliding_window', 'slidingWindows', new Array(28).fill(undefined)],
    ];
    for (const [field, name, expected] of byDefault)
      it(`${field}: ${JSON.stringify(expected) ?? 'none'}`, () => {
        for (const absent of [undefined, null])
          assert.deepEqual(Reflect.get(parse({ [field]: absent }), name), expected);
      });

    it('rope_scaling, rope_parameters, layer_types, quantization_config, max_window_layers, hidden_act: as if not there', () => {
      const names = ['rope_scaling', 'rope_parameters', 'layer_types', 'quantization_config', 'max_window_layers'];
      assert.deepEqual(parse(Object.fromEntries([...names, 'hidden_act'].map((name) => [name, null]))), parse());
    });

    const required = [
      'model_type',
      'hidden_size',
      'intermediate_size',
      'num_hidden_layers',
      'num_attention_heads',
      'vocab_size',
    ];
    for (const field of required)
      it(`${field}: it must be there`, () => {
        for (const absent of [undefined, null])
          assertThrowsQwen2(
            () => parse({ [field]: absent }),
            'invalid_checkpoint',
            `config.json: ${field} is missing; expected a`,
          );
      });
  });

  describe('sliding window', () => {
    const slides = { num_hidden_layers: 4, use_sliding_window: true, sliding_window: 16 };
    const none = undefined;
    const cases: { when: string; changes: Record<string, unknown>; expected: (number | undefined)[] }[] = [
      {
        when: 'from layer max_window_layers on',
        changes: { ...slides, max_window_layers: 1 },
        expected: [none, 16, 16, 16],
      },
      { when: 'everywhere from layer 0', changes: { ...slides, max_window_layers: 0 }, expected: [16, 16, 16, 16] },
      {
        when: 'nowhere from layer 28',
        changes: { ...slides, max_window_layers: null },
        expected: [none, none, none, none],
      },
      {
        when: 'not without use_sliding_window',
        changes: { ...slides, use_sliding_window: false, max_window_layers: 0 },
        expected: [none, none, none, none],
      },
      {
        when: '4096 wide where the file is silent',
        changes: { ...slides, sliding_window: undefined, max_window_layers: 3 },
        expected: [none, none, none, 4096],
      },
      {
        when: 'not at all where sliding_window is null, as None in Python means no window',
        changes: { ...slides, sliding_window: null, max_window_layers: 0 },
        expected: [none, none, none, none],
      },
      {
        when: 'by layer_types, whatever max_window_layers says',
        changes: {
          ...slides,
          max_window_layers: 0,
          layer_types: ['sliding_attention', 'full_attention', 'full_attention', 'sliding_attention'],
        },
        expected: [16, none, none, 16],
      },
    ];
    for (const { when, changes, expected } of cases)
      it(when, () => {
        assert.deepEqual(parse(changes).slidingWindows, expected);
      });
  });

  describe('a field of the wrong type or out of range is named with its value and what was expected', () => {
    const whole = (max: number, min = 1) => `expected a whole number from ${min} to ${max}`;
    const wrong: [field: string, values: unknown[], expected: string][] = [
      ['hidden_size', [0, -1, 1.5, '3584', [3584], {}, true, 2 ** 21, 1e300], whole(2 ** 20)],
      ['intermediate_size', [0, -18944, 0.5, '1', false, 2 ** 20 + 1], whole(2 ** 20)],
      ['num_hidden_layers', [0, -1, 2.5, '28', [], 4097], whole(4096)],
      ['num_attention_heads', [0, -28, 1.5, '28', {}, 4097], whole(4096)],
      ['num_key_value_heads', [0, -4, 0.5, '4', [], 4097], whole(4096)],
      ['num_key_value_heads', [3, 56], 'expected a divisor of num_attention_heads, 28'],
      ['num_attention_heads', [44], 'expected a divisor of hidden_size, 3584, as there is no head_dim'],
      ['head_dim', [0, -128, 0.5, '128', 1026], whole(1024)],
      ['vocab_size', [0, -1, 1.5, '152064', 2 ** 24 + 1], whole(2 ** 24)],
      ['max_position_embeddings', [0, -1, 1.5, '32768', 2 ** 28 + 1], whole(2 ** 28)],
      ['rms_norm_eps', [0, -1e-6, '1e-6', 2, []], 'expected a number from 1e-12 to 1'],
      ['rope_theta', [0, 1, -10000, '1e6', 1e13, {}], 'expected a number from 1.000001 to 1000000000000'],
      ['tie_word_embeddings', [0, 1, 'true', []], 'expected true or false'],
      ['use_sliding_window', [0, 'false', {}], 'expected true or false'],
      ['max_window_layers', [-1, 0.5, '28'], whole(2 ** 31 - 1, 0)],
      ['bos_token_id', [-1, 0.5, '151643', {}, true, 1e300, 2 ** 31], 'expected a token id, or a list of them'],
      ['eos_token_id', [-1, '151645', [151645, '151643'], [1.5], [[1]]], 'expected a token id, or a list of them'],
      ['eos_token_id', [new Array(1001).fill(1)], 'expected a token id, or a list of them'],
      ['model_type', [2, ['qwen2'], {}, true], 'expected a string'],
      ['hidden_act', [1, ['silu'], false], 'expected a string'],
      ['torch_dtype', [16, ['bfloat16'], {}], 'expected a string'],
      ['layer_types', ['full_attention', [], ['full_attention'], {}], 'expected 28 entries, each full_attention or'],
      ['layer_types', [new Array(28).fill('chunked_attention'), new Array(28).fill(0)], 'expected 28 entries'],
      ['layer_types', [new Array(28).fill('sliding_attention')], 'expected no sliding_attention'],
    ];
    for (const [field, values, expected] of wrong)
      it(`${field}: ${expected}`, () => {
        for (const value of values)
          assertThrowsQwen2(
            () => parse({ [field]: value }),
            'invalid_checkpoint',
            `config.json: ${field} is ${JSON.stringify(value).slice(0, 20)}`,
            expected,
          );
      });

    it('sliding_window: a whole number, where it is used', () => {
      for (const value of [0, -1, 16.5, '16', []])
        assertThrowsQwen2(
          () => parse({ use_sliding_window: true, sliding_window: value }),
          'invalid_checkpoint',
          `sliding_window is ${JSON.stringify(value)}`,
          whole(2 ** 31 - 1),
        );
      assert.equal(parse({ use_sliding_window: false, sliding_window: 'unused' }).slidingWindows[27], undefined);
    });

    it('heads of an odd width', () => {
      assertThrowsQwen2(() => parse({ head_dim: 127 }), 'invalid_checkpoint', '127', 'expected an even head_dim');
      assertThrowsQwen2(() => parse({ hidden_size: 28 * 3 }), 'invalid_checkpoint', '3', 'expected an even head_dim');
    });

    it('the whole: an object', () => {
      for (const json of [null, 5, 'qwen2', [qwen2], true])
        assertThrowsQwen2(
          () => parseConfig(json, 'config.json'),
          'invalid_checkpoint',
          `config.json must be a JSON object; found ${JSON.stringify(json).slice(0, 10)}`,
        );
    });

    it('quantization_config, rope_scaling, rope_parameters: objects', () => {
      for (const field of ['quantization_config', 'rope_scaling', 'rope_parameters'])
        for (const value of [1, 'awq', [], true])
          assertThrowsQwen2(
            () => parse({ [field]: value }),
            'invalid_checkpoint',
            `config.json: ${field} must be a JSON object; found ${JSON.stringify(value)}`,
          );
    });

    it('however deep or long the value is', () => {
      const deep = JSON.parse(`${'['.repeat(100_000)}${']'.repeat(100_000)}`);
      const long = 'x'.repeat(1_000_000);
      for (const value of [deep, long, { deep }, new Array(100_000).fill(long), { [long]: 1 }])
        assert.throws(
          () => parseConfig({ ...qwen2, vocab_size: value }, 'config.json'),
          ({ message }: Error) => message.includes('vocab_size is') && message.length < 200,
        );
    });

    it('values that only a program can pass', () => {
      const circular: unknown[] = [];
      circular.push(circular);
      for (const value of [Number.NaN, Number.POSITIVE_INFINITY, 5n, Symbol('x'), () => 1, circular])
        assertThrowsQwen2(
          () => parseConfig({ ...qwen2, vocab_size: value }, 'config'),
          'invalid_checkpoint',
          'vocab_size is',
        );
    });
  });

  describe('4-bit weights', () => {
    const cases: [what: string, given: object, expected: object][] = [
      ['AWQ', awq, { format: 'awq', groupSize: 128, symmetric: false }],
      ['AWQ in capitals, groups of 64', { ...awq, version: 'GEMM', group_size: 64 }, { format: 'awq', groupSize: 64 }],
      ['AWQ by its other names', { quant_method: 'awq', w_bit: 4, q_group_size: 32 }, { groupSize: 32 }],
      ['GPTQ', gptq, { format: 'gptq', groupSize: 128, symmetric: true }],
      ['GPTQ, a scale a row', { ...gptq, group_size: -1, sym: false }, { groupSize: -1, symmetric: false }],
      ['GPTQ in its first format', { ...gptq, checkpoint_format: 'gptq' }, { format: 'gptq' }],
      ['GPTQ in its second format', { ...gptq, checkpoint_format: 'gptq_v2' }, { format: 'gptq_v2' }],
      ['GPTQ with an empty table of exceptions', { ...gptq, dynamic: {} }, { format: 'gptq' }],
    ];
    for (const [what, given, expected] of cases)
      it(what, () => {
        const { quantization } = parse({ quantization_config: given });
        assert.deepEqual({ ...quantization, ...expected }, quantization);
      });

    for (const [field, value] of [
      ['group_size', 'all'],
      ['group_size', 0],
      ['group_size', -2],
      ['zero_point', 1],
      ['version', 4],
    ] as const)
      it(`${field} ${value} is refused`, () =>
        assertThrowsQwen2(
          () => parse({ quantization_config: { ...awq, [field]: value } }),
          'invalid_checkpoint',
          `quantization_config: ${field} is`,
        ));
  });

  describe('what this version does not run is unsupported, and named', () => {
    const cases: [what: string, changes: Record<string, unknown>, named: string][] = [
      ['Llama', { architectures: ['LlamaForCausalLM'], model_type: 'llama' }, 'model_type is "llama"'],
      ['Qwen2-MoE', { architectures: ['Qwen2MoeForCausalLM'], model_type: 'qwen2_moe' }, 'model_type is "qwen2_moe"'],
      ['Qwen2-VL', { model_type: 'qwen2_vl' }, 'model_type is "qwen2_vl"'],
      ['Qwen3', { model_type: 'qwen3' }, 'model_type is "qwen3"'],
      ['3 bits', { quantization_config: { quant_method: 'gptq', bits: 3 } }, '3 bits'],
      ['8 bits', { quantization_config: { quant_method: 'awq', bits: 8 } }, '8 bits'],
      ['another method', { quantization_config: { quant_method: 'bitsandbytes', bits: 4 } }, '"bitsandbytes"'],
      ['an AWQ for one kernel', { quantization_config: { ...awq, version: 'gemv' } }, 'version "gemv"'],
      ['a GPTQ for one kernel', { quantization_config: { ...gptq, checkpoint_format: 'marlin' } }, '"marlin"'],
      ['groups of 16', { quantization_config: { ...awq, group_size: 16 } }, 'group_size 16'],
      [
        'other bits for some modules',
        { quantization_config: { ...gptq, dynamic: { '+:.*down.*': { bits: 8 } } } },
        'other bits for some modules',
      ],
      ['a quantization without a name', { quantization_config: {} }, 'quant_method missing'],
      ['another activation', { hidden_act: 'gelu' }, 'hidden_act is "gelu"'],
      ['rotation by another rule', { rope_scaling: { rope_type: 'llama3', factor: 8 } }, 'of type "llama3"'],
      ['linear rope scaling', { rope_scaling: { type: 'linear', factor: 2 } }, 'of type "linear"'],
      ['mrope', { rope_scaling: { type: 'mrope', mrope_section: [16, 24, 24] } }, 'of type "mrope"'],
      ['rotation of half of each head', { partial_rotary_factor: 0.5 }, 'on 0.5 of each head'],
      ['the same in rope_parameters', { rope_parameters: { partial_rotary_factor: 0.5 } }, 'on 0.5 of each head'],
    ];
    for (const [what, changes, named] of cases)
      it(what, () => {
        assertThrowsQwen2(() => parse(changes), 'unsupported', 'config.json', named);
      });
  });

  it('of each fixture slides where Hugging Face’s code does', () => {
    for (const name of denseFixtures) {
      const read = (file: string) => JSON.parse(readFileSync(join(fixtureFolder(name), file), 'utf8'));
      const { slidingWindows } = parseConfig(read('config.json'), name);
      const types = slidingWindows.map((window) => (window === undefined ? 'full_attention' : 'sliding_attention'));
      assert.deepEqual(types, read('expected.json').reference.layer_types, name);
    }
  });

  it('of each known shape is valid, and has the heads of 64 or 128 of the real models', () => {
    const headDims = Object.entries(qwen2Shapes).map(([name, shape]) => [name, parseConfig(shape, name).headDim]);
    assert.deepEqual(Object.fromEntries(headDims), {
      'qwen2-0.5b': 64,
      'qwen2-1.5b': 128,
      'qwen2-7b': 128,
      'qwen2-72b': 128,
    });
  });
});
