import type { DType, Tensor } from './tensor.js';

/**
 * The operations and their arguments, as csrc/ops/<operation>/<operation>.h defines them: shapes, dtypes, aliasing,
 * tolerances and errors stand there. A test holds this table against the native one.
 */
export interface OpArguments {
  embedding: { ids: Tensor; table: Tensor; out: Tensor };
  rms_norm: { x: Tensor; weight: Tensor; out: Tensor; eps: number };
  add_rms_norm: { x: Tensor; residual: Tensor; weight: Tensor; out: Tensor; eps: number };
  linear: { x: Tensor; weight: Tensor; bias?: Tensor | undefined; out: Tensor; batch_invariant: number };
  linear_pack: { source: Tensor; weight: Tensor; row_offset: number };
  swiglu: { x: Tensor; weight: Tensor; out: Tensor; batch_invariant: number };
  swiglu_pack: { source: Tensor; weight: Tensor; part: number; row_offset: number };
  rope_table: { positions: Tensor; frequencies: Tensor; table: Tensor; scale: number };
  rope_and_cache: {
    qkv: Tensor;
    rope_table: Tensor;
    slots: Tensor;
    cache: Tensor;
    smoothing?: Tensor | undefined;
    cache_dtype: DType;
    num_heads: number;
    num_kv_heads: number;
    head_dim: number;
    block_size: number;
  };
  attention: {
    q: Tensor;
    cache: Tensor;
    block_tables: Tensor;
    query_starts: Tensor;
    context_lengths: Tensor;
    out: Tensor;
    cache_dtype: DType;
    num_kv_heads: number;
    head_dim: number;
    block_size: number;
    window: number;
    scale: number;
    batch_invariant: number;
  };
  gather_rows: { x: Tensor; rows: Tensor; out: Tensor };
  sample: {
    logits: Tensor;
    parameters: Tensor;
    choices: Tensor;
    rows: Tensor;
    allowed?: Tensor | undefined;
    bias_starts?: Tensor | undefined;
    bias_ids?: Tensor | undefined;
    bias_values?: Tensor | undefined;
    prompt_masks?: Tensor | undefined;
    counts?: Tensor | undefined;
    tokens: Tensor;
    logprobs: Tensor;
    ranks: Tensor;
    top_ids?: Tensor | undefined;
    top_logprobs?: Tensor | undefined;
  };
  load_history: { prompt: Tensor; output: Tensor; prompt_masks: Tensor; counts: Tensor; row: number };
  token_logprobs: {
    logits: Tensor;
    targets: Tensor;
    logprobs: Tensor;
    ranks: Tensor;
    top_ids?: Tensor | undefined;
    top_logprobs?: Tensor | undefined;
  };
  fill_random: { out: Tensor; seed: number; mean: number; std: number };
  convert: { source: Tensor; out: Tensor };
  linear_int4: {
    x: Tensor;
    weight: Tensor;
    bias?: Tensor | undefined;
    out: Tensor;
    exact: number;
    batch_invariant: number;
  };
  linear_int4_pack: {
    qweight: Tensor;
    qzeros: Tensor;
    scales: Tensor;
    columns?: Tensor | undefined;
    weight: Tensor;
    format: number;
    row_offset: number;
  };
  swiglu_int4: { x: Tensor; weight: Tensor; out: Tensor; exact: number; batch_invariant: number };
  swiglu_int4_pack: {
    qweight: Tensor;
    qzeros: Tensor;
    scales: Tensor;
    columns?: Tensor | undefined;
    weight: Tensor;
    format: number;
    part: number;
    row_offset: number;
  };
  linear_int8: {
    x: Tensor;
    weight: Tensor;
    bias?: Tensor | undefined;
    out: Tensor;
    exact: number;
    batch_invariant: number;
  };
  linear_int8_pack: { source: Tensor; weight: Tensor; row_offset: number };
  permute_columns: { x: Tensor; columns: Tensor; out: Tensor };
  silu_mul: { gate: Tensor; up: Tensor; out: Tensor };
  quantize_int4: {
    source: Tensor;
    column_scales?: Tensor | undefined;
    qweight: Tensor;
    qzeros: Tensor;
    scales: Tensor;
    clip_steps: number;
  };
  scale: { source: Tensor; row_scales?: Tensor | undefined; column_scales?: Tensor | undefined; out: Tensor };
  column_norms: { a: Tensor; b?: Tensor | undefined; out: Tensor; power: number };
}

export type OpName = keyof OpArguments;
