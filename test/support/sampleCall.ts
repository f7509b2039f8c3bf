import type { OpBench } from './opBench.js';
import type { SampleRow } from './sampleModel.js';

/** What a call of `sample` leaves behind. */
export interface Sampled {
  tokens: number[];
  logprobs: number[];
  ranks: number[];
  topIds: number[][];
  topLogprobs: number[][];
  /** Of the state row of each row that has one. */
  counts: (Float64Array | undefined)[];
}

/** Runs `sample` on the rows of one call: loads histories, passes what the rows ask for, reads everything back. */
export async function callSample(bench: OpBench, rows: readonly SampleRow[], alternatives = 0): Promise<Sampled> {
  const vocabulary = rows[0]!.logits.length;
  const words = Math.ceil(vocabulary / 32);
  const state = loadHistories(bench, rows, vocabulary);
  const out = {
    tokens: bench.empty('i32', [rows.length]),
    logprobs: bench.empty('f32', [rows.length]),
    ranks: bench.empty('i32', [rows.length]),
  };
  const top = {
    top_ids: alternatives ? bench.empty('i32', [rows.length, alternatives], alternatives + 1) : undefined,
    top_logprobs: alternatives ? bench.empty('f32', [rows.length, alternatives], alternatives + 2) : undefined,
  };
  const logits = rows.flatMap((row) => [row.logits]);
  bench.run('sample', {
    logits: bench.from('f32', [rows.length, vocabulary], concatenated(logits), vocabulary + 3),
    parameters: bench.from('f32', [rows.length, 6], rows.flatMap(parametersOf), 7),
    choices: bench.from('i32', [rows.length, 5], rows.flatMap(choicesOf), 6),
    rows: bench.from('i32', [rows.length], state.rows),
    allowed: rows.some((row) => row.allowed)
      ? bench.from(
          'i32',
          [rows.length, words],
          rows.flatMap((row) => maskOf(row, words)),
        )
      : undefined,
    ...biasesOf(bench, rows),
    prompt_masks: state.promptMasks,
    counts: state.counts,
    ...out,
    ...top,
  });
  const tokens = [...(await bench.read(out.tokens))];
  return {
    tokens,
    logprobs: [...(await bench.read(out.logprobs))],
    ranks: [...(await bench.read(out.ranks))],
    topIds: top.top_ids ? inRows(await bench.read(top.top_ids), alternatives) : [],
    topLogprobs: top.top_logprobs ? inRows(await bench.read(top.top_logprobs), alternatives) : [],
    counts: await Promise.all(
      state.rows.map(async (at) => (at < 0 ? undefined : await bench.read(state.counts!.narrow(0, at, 1)))),
    ),
  };
}

/** State rows in reverse, with an unused one beside each, so that a mix-up shows. */
function loadHistories(bench: OpBench, rows: readonly SampleRow[], vocabulary: number) {
  const states = 2 * rows.length + 1;
  const stateRows = rows.map(({ history }, i) => (history ? states - 2 - 2 * i : -1));
  if (stateRows.every((row) => row < 0)) return { rows: stateRows, promptMasks: undefined, counts: undefined };
  const promptMasks = bench.empty('i32', [states, Math.ceil(vocabulary / 32)]);
  const counts = bench.empty('i32', [states, vocabulary]);
  for (const [i, { history }] of rows.entries()) {
    if (history === undefined) continue;
    bench.run('load_history', {
      prompt: bench.from('i32', [history.prompt.length], history.prompt),
      output: bench.from('i32', [history.output.length], history.output),
      prompt_masks: promptMasks,
      counts,
      row: stateRows[i]!,
    });
  }
  return { rows: stateRows, promptMasks, counts };
}

function biasesOf(bench: OpBench, rows: readonly SampleRow[]) {
  const biases = rows.flatMap((row) => [...row.biases]);
  if (biases.length === 0) return {};
  let at = 0;
  const starts = [0, ...rows.map((row) => (at += row.biases.length))];
  return {
    bias_starts: bench.from('i32', [starts.length], starts),
    bias_ids: bench.from(
      'i32',
      [biases.length],
      biases.map(([id]) => id),
    ),
    bias_values: bench.from(
      'f32',
      [biases.length],
      biases.map(([, value]) => value),
    ),
  };
}

/** Columns as in SampleParameter. */
const parametersOf = (row: SampleRow) => [
  row.temperature,
  row.topP,
  row.minP,
  row.repetitionPenalty,
  row.presencePenalty,
  row.frequencyPenalty,
];

/** Columns as in SampleChoice. */
const choicesOf = (row: SampleRow) => [row.topK, ...row.seed, row.choice, row.token];

function maskOf(row: SampleRow, words: number): number[] {
  const mask = new Array<number>(words).fill(0);
  for (let id = 0; id < row.logits.length; id++) if (row.allowed?.(id) ?? true) mask[id >> 5]! |= 1 << (id & 31);
  return mask;
}

function concatenated(parts: readonly Float32Array[]): Float32Array {
  const whole = new Float32Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function inRows(values: Float64Array, columns: number): number[][] {
  return Array.from({ length: values.length / columns }, (_, i) => [
    ...values.subarray(i * columns, (i + 1) * columns),
  ]);
}
