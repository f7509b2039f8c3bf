/** Weights rounded to 8 bits, as the contract of linear_int8_pack describes it. */
import type { Tensor } from '../../lib/native/tensor.js';
import { fromF16, roundToEven, toF16 } from './f16.js';
import type { OpBench, Values } from './opBench.js';
import type { QuantizedNumbers } from './quantizedProducts.js';

/** The numbers that a weight holds whose source, rows of K, is given as f32 numbers. */
export function roundedToInt8(source: ArrayLike<number>, group: number): QuantizedNumbers {
  const weight = new Float64Array(source.length);
  for (let first = 0; first < source.length; first += group) {
    let largest = 0;
    for (let i = first; i < first + group; i++) largest = Math.max(largest, Math.abs(source[i]!));
    const scale = fromF16(toF16(Math.min(Math.max(Math.fround(largest / 127), 2 ** -24), 65504)));
    for (let i = first; i < first + group; i++) {
      const q = roundToEven(Math.fround(source[i]! / scale));
      weight[i] = scale * Math.min(Math.max(q, -127), 127) + 0; // a whole number has no −0
    }
  }
  return { weight, magnitude: weight.map(Math.abs) };
}

/** A weight of int8 for `linear_int8`, of values of f32. */
export function int8Weight(bench: OpBench, N: number, K: number, group: number, values: Values): Tensor {
  const weight = bench.weight('linearWeight', N, K, { dtype: 'int8', group });
  bench.run('linear_int8_pack', { source: bench.from('f32', [N, K], values), weight, row_offset: 0 });
  return weight;
}
