import { roundToBf16 } from './bf16.js';
import type { KvShape } from './kvCache.js';

/** A sequence of a step: its last `queries` tokens ask, all `context` tokens answer. */
export interface AttentionSequence {
  context: number;
  queries: number;
  /** [queries, Hq·D] */
  q: Float64Array;
  /** [context, Hkv·D] */
  k: Float64Array;
  v: Float64Array;
}

export interface AttentionShape extends KvShape {
  heads: number;
  /** Keys a query sees; 0: all. */
  window: number;
  scale: number;
}

/** What attention gives for a sequence, [queries, Hq·D] each. */
export interface Attended {
  /** In float64. */
  exact: Float64Array;
  /** The same computation in bf16 with an fp32 softmax: the error that the contract allows twice of. */
  inBf16: Float64Array;
  /** Σ p·|v|, which errors of probabilities are proportional to. */
  magnitudes: Float64Array;
  /** The largest scale · Σ|q·k| of the row, which errors of scores are proportional to. */
  scores: Float64Array;
}

/** Attention of one sequence, written from the contract. */
export function attend(sequence: AttentionSequence, shape: AttentionShape): Attended {
  const { queries, context } = sequence;
  const { heads, headDim, window } = shape;
  const size = queries * heads * headDim;
  const result: Attended = {
    exact: new Float64Array(size),
    inBf16: new Float64Array(size),
    magnitudes: new Float64Array(size),
    scores: new Float64Array(size),
  };
  for (let i = 0; i < queries; i++) {
    const position = context - queries + i;
    const first = window > 0 ? Math.max(0, position - window + 1) : 0;
    for (let head = 0; head < heads; head++) attendRow(sequence, shape, { i, head, first, end: position + 1 }, result);
  }
  return result;
}

interface Row {
  i: number;
  head: number;
  /** Keys first … end. */
  first: number;
  end: number;
}

function attendRow({ q, k, v }: AttentionSequence, shape: AttentionShape, row: Row, result: Attended): void {
  const { heads, kvHeads, headDim: D, scale } = shape;
  const at = (row.i * heads + row.head) * D;
  const kvHead = Math.floor(row.head / (heads / kvHeads));
  const key = (j: number) => (j * kvHeads + kvHead) * D;
  const scores = new Float64Array(row.end - row.first);
  let largest = 0;
  for (const j of scores.keys()) {
    const kAt = key(row.first + j);
    let [score, magnitude] = [0, 0];
    for (let d = 0; d < D; d++) {
      const product = q[at + d]! * k[kAt + d]!;
      score += product;
      magnitude += Math.abs(product);
    }
    scores[j] = score * scale;
    largest = Math.max(largest, magnitude * scale);
  }
  const exact = softmax(scores);
  const rounded = softmax(scores.map(Math.fround)).map(roundToBf16);
  for (let d = 0; d < D; d++) {
    let [sum, roundedSum, magnitude] = [0, 0, 0];
    for (const [j, p] of exact.entries()) {
      const value = v[key(row.first + j) + d]!;
      sum += p * value;
      roundedSum += rounded[j]! * value;
      magnitude += p * Math.abs(value);
    }
    result.exact[at + d] = sum;
    result.inBf16[at + d] = roundToBf16(roundedSum);
    result.magnitudes[at + d] = magnitude;
    result.scores[at + d] = largest;
  }
}

function softmax(scores: Float64Array): Float64Array {
  const largest = scores.reduce((most, x) => Math.max(most, x), Number.NEGATIVE_INFINITY);
  const weights = scores.map((x) => Math.exp(x - largest));
  const total = weights.reduce((sum, x) => sum + x);
  return weights.map((x) => x / total);
}
