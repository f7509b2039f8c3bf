import { describeContract } from '../support/contract.js';
import type { OpBench } from '../support/opBench.js';
import { uniforms } from '../support/uniforms.js';

const zeros = (bench: OpBench, ...shape: number[]) =>
  bench.from('i32', shape, new Int32Array(shape.reduce((product, n) => product * n)));

const sampleArguments = (bench: OpBench) => ({
  logits: bench.from('f32', [2, 70], uniforms(140, 1)),
  parameters: bench.from('f32', [2, 6], [0, 1, 0, 1, 0, 0, 1, 0.9, 0.1, 1.1, 0.5, 0.5]),
  choices: bench.from('i32', [2, 5], [0, 1, 2, 0, 3, 5, 1, 2, 0, 3]),
  rows: bench.from('i32', [2], [1, 0]),
  allowed: bench.from('i32', [2, 3], [-1, -1, 63, -1, -1, 63]),
  bias_starts: bench.from('i32', [3], [0, 1, 2]),
  bias_ids: bench.from('i32', [2], [3, 69]),
  bias_values: bench.from('f32', [2], [1, -1]),
  prompt_masks: zeros(bench, 3, 3),
  counts: zeros(bench, 3, 70),
  tokens: bench.empty('i32', [2]),
  logprobs: bench.empty('f32', [2]),
  ranks: bench.empty('i32', [2]),
  top_ids: bench.empty('i32', [2, 4]),
  top_logprobs: bench.empty('f32', [2, 4]),
});

describeContract({
  op: 'sample',
  valid: sampleArguments,
  violations: [
    {
      title: 'a mask of too few words',
      change: (bench) => ({ allowed: zeros(bench, 2, 2) }),
      says: /allowed must be \[B=2, ⌈V\/32⌉=3\]: ⌈V\/32⌉ is set by V/,
    },
    {
      title: 'biases without their values',
      change: () => ({ bias_values: undefined }),
      says: /bias_starts, bias_ids and bias_values come together/,
    },
    {
      title: 'as many bias_starts as rows',
      change: (bench) => ({ bias_starts: zeros(bench, 2) }),
      says: /bias_starts must have one entry more than rows/,
    },
    {
      title: 'counts without prompt_masks',
      change: () => ({ prompt_masks: undefined }),
      says: /prompt_masks and counts come together/,
    },
    {
      title: 'counts of another vocabulary',
      change: (bench) => ({ counts: zeros(bench, 3, 71) }),
      says: /counts must be \[rows=3, V=70\]: V is set by logits/,
    },
    {
      title: 'top_ids without top_logprobs',
      change: () => ({ top_logprobs: undefined }),
      says: /top_ids and top_logprobs come together/,
    },
    {
      title: 'more alternatives than tokens',
      change: (bench) => ({ top_ids: bench.empty('i32', [2, 71]), top_logprobs: bench.empty('f32', [2, 71]) }),
      says: /there are only V tokens to be the L most probable/,
    },
    {
      title: 'tokens written over the state rows that they are counted in',
      change: (_, { rows }) => ({ tokens: rows }),
      says: /tokens must not overlap rows/,
    },
    {
      title: 'ranks written over tokens',
      change: (_, { tokens }) => ({ ranks: tokens }),
      says: /tokens must not overlap ranks/,
    },
    {
      title: 'parameters of five columns',
      change: (bench) => ({ parameters: bench.empty('f32', [2, 5]) }),
      says: /parameters must be \[B=2, 6=6\]: 6 is set by SampleParameter/,
    },
  ],
});

describeContract({
  op: 'load_history',
  valid: (bench) => ({
    prompt: bench.from('i32', [3], [5, 63, 5]),
    output: bench.from('i32', [2], [0, 1]),
    prompt_masks: zeros(bench, 2, 2),
    counts: zeros(bench, 2, 64),
    row: 1,
  }),
  free: ['prompt.0', 'output.0'],
  violations: [
    { title: 'a row beyond the state', change: () => ({ row: 2 }), says: /row must be one of the state's rows/ },
    { title: 'row −1', change: () => ({ row: -1 }), says: /row must be one of the state's rows/ },
  ],
});

describeContract({
  op: 'token_logprobs',
  valid: (bench) => ({
    logits: bench.from('f32', [2, 70], uniforms(140, 1)),
    targets: bench.from('i32', [2], [69, -1]),
    logprobs: bench.empty('f32', [2]),
    ranks: bench.empty('i32', [2]),
    top_ids: bench.empty('i32', [2, 4]),
    top_logprobs: bench.empty('f32', [2, 4]),
  }),
  free: ['logits.1'],
  violations: [
    {
      title: 'top_ids without top_logprobs',
      change: () => ({ top_logprobs: undefined }),
      says: /top_ids and top_logprobs come together/,
    },
    {
      title: 'more alternatives than tokens',
      change: (bench) => ({ top_ids: bench.empty('i32', [2, 71]), top_logprobs: bench.empty('f32', [2, 71]) }),
      says: /there are only V tokens to be the L most probable/,
    },
  ],
});
