import assert from 'node:assert/strict';
import { nativeAddon } from '../../lib/native/addon.js';
import type { OpArguments, OpName } from '../../lib/native/ops.js';
import type { DType, Tensor } from '../../lib/native/tensor.js';

/** How the type of an argument in lib/native/ops.ts reads. */
type Kind<Argument> = Tensor extends Argument
  ? undefined extends Argument
    ? 'optionalTensor'
    : 'tensor'
  : DType extends Argument
    ? 'dtype'
    : 'number';

/** The compiler holds this table against the types of OpArguments: no field more, none less, none of another kind. */
const declared: {
  [Name in OpName]: { [Field in keyof OpArguments[Name]]-?: Kind<OpArguments[Name][Field]> };
} = {
  embedding: { ids: 'tensor', table: 'tensor', out: 'tensor' },
  rms_norm: { x: 'tensor', weight: 'tensor', out: 'tensor', eps: 'number' },
  add_rms_norm: { x: 'tensor', residual: 'tensor', weight: 'tensor', out: 'tensor', eps: 'number' },
  linear: { x: 'tensor', weight: 'tensor', bias: 'optionalTensor', out: 'tensor', batch_invariant: 'number' },
  linear_pack: { source: 'tensor', weight: 'tensor', row_offset: 'number' },
  swiglu: { x: 'tensor', weight: 'tensor', out: 'tensor', batch_invariant: 'number' },
  swiglu_pack: { source: 'tensor', weight: 'tensor', part: 'number', row_offset: 'number' },
  rope_table: { positions: 'tensor', frequencies: 'tensor', table: 'tensor', scale: 'number' },
  rope_and_cache: {
    qkv: 'tensor',
    rope_table: 'tensor',
    slots: 'tensor',
    cache: 'tensor',
    smoothing: 'optionalTensor',
    cache_dtype: 'dtype',
    num_heads: 'number',
    num_kv_heads: 'number',
    head_dim: 'number',
    block_size: 'number',
  },
  attention: {
    q: 'tensor',
    cache: 'tensor',
    block_tables: 'tensor',
    query_starts: 'tensor',
    context_lengths: 'tensor',
    out: 'tensor',
    cache_dtype: 'dtype',
    num_kv_heads: 'number',
    head_dim: 'number',
    block_size: 'number',
    window: 'number',
    scale: 'number',
    batch_invariant: 'number',
  },
  gather_rows: { x: 'tensor', rows: 'tensor', out: 'tensor' },
  sample: {
    logits: 'tensor',
    parameters: 'tensor',
    choices: 'tensor',
    rows: 'tensor',
    allowed: 'optionalTensor',
    bias_starts: 'optionalTensor',
    bias_ids: 'optionalTensor',
    bias_values: 'optionalTensor',
    prompt_masks: 'optionalTensor',
    counts: 'optionalTensor',
    tokens: 'tensor',
    logprobs: 'tensor',
    ranks: 'tensor',
    top_ids: 'optionalTensor',
    top_logprobs: 'optionalTensor',
  },
  load_history: { prompt: 'tensor', output: 'tensor', prompt_masks: 'tensor', counts: 'tensor', row: 'number' },
  token_logprobs: {
    logits: 'tensor',
    targets: 'tensor',
    logprobs: 'tensor',
    ranks: 'tensor',
    top_ids: 'optionalTensor',
    top_logprobs: 'optionalTensor',
  },
  fill_random: { out: 'tensor', seed: 'number', mean: 'number', std: 'number' },
  convert: { source: 'tensor', out: 'tensor' },
  linear_int4: {
    x: 'tensor',
    weight: 'tensor',
    bias: 'optionalTensor',
    out: 'tensor',
    exact: 'number',
    batch_invariant: 'number',
  },
  linear_int4_pack: {
    qweight: 'tensor',
    qzeros: 'tensor',
    scales: 'tensor',
    columns: 'optionalTensor',
    weight: 'tensor',
    format: 'number',
    row_offset: 'number',
  },
  swiglu_int4: { x: 'tensor', weight: 'tensor', out: 'tensor', exact: 'number', batch_invariant: 'number' },
  swiglu_int4_pack: {
    qweight: 'tensor',
    qzeros: 'tensor',
    scales: 'tensor',
    columns: 'optionalTensor',
    weight: 'tensor',
    format: 'number',
    part: 'number',
    row_offset: 'number',
  },
  linear_int8: {
    x: 'tensor',
    weight: 'tensor',
    bias: 'optionalTensor',
    out: 'tensor',
    exact: 'number',
    batch_invariant: 'number',
  },
  linear_int8_pack: { source: 'tensor', weight: 'tensor', row_offset: 'number' },
  permute_columns: { x: 'tensor', columns: 'tensor', out: 'tensor' },
  silu_mul: { gate: 'tensor', up: 'tensor', out: 'tensor' },
  quantize_int4: {
    source: 'tensor',
    column_scales: 'optionalTensor',
    qweight: 'tensor',
    qzeros: 'tensor',
    scales: 'tensor',
    clip_steps: 'number',
  },
  scale: { source: 'tensor', row_scales: 'optionalTensor', column_scales: 'optionalTensor', out: 'tensor' },
  column_norms: { a: 'tensor', b: 'optionalTensor', out: 'tensor', power: 'number' },
};

describe('the table of operations', () => {
  it('names the same operations, in lib/native/ops.ts and in the addon', () => {
    const native = nativeAddon()
      .operations()
      .map(({ name }) => name);
    assert.deepEqual(native, Object.keys(declared));
  });

  for (const { name, fields } of nativeAddon().operations())
    it(`gives ${name} the same arguments`, () => {
      const kinds = fields.map(({ name, type }) => [name, type === 'i32' || type === 'f32' ? 'number' : type]);
      assert.deepEqual(kinds, Object.entries(declared[name as OpName]));
    });
});
