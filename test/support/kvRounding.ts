import type { CacheDType } from '../../lib/model/kvCache.js';

export type RoundedDType = 'fp8' | 'int8';
export const isRounded = (dtype: CacheDType): dtype is RoundedDType => dtype === 'fp8' || dtype === 'int8';

/** The magnitudes that an element of 8 bits can have, by its code without the sign. */
export const elementValues: Record<RoundedDType, readonly number[]> = {
  /** E4M3: subnormals in steps of 2⁻⁹, then eight steps to a power of two, up to 448; the last code is NaN, and not used. */
  fp8: Array.from({ length: 127 }, (_, code) => {
    const [exponent, mantissa] = [Math.floor(code / 8), code % 8];
    return exponent === 0 ? mantissa * 2 ** -9 : (8 + mantissa) * 2 ** (exponent - 10);
  }),
  int8: Array.from({ length: 128 }, (_, code) => code),
};

/** One head of a token as a cache of 8 bits holds it, from the definition in csrc/core/kv_cache.h. */
export function roundHead(dtype: RoundedDType, head: ArrayLike<number>): Float64Array {
  const values = elementValues[dtype];
  const limit = values.at(-1)!;
  const largest = Math.max(...Array.from(head, Math.abs));
  if (!Number.isFinite(largest)) return new Float64Array(head.length).fill(Number.NaN);
  if (largest < 2 ** -100) return new Float64Array(head.length);
  const scale = Math.fround(largest / limit);
  const inverse = Math.fround(limit / largest);
  return Float64Array.from(head, (x) => {
    const scaled = Math.fround(Math.abs(x) * inverse);
    const value = nearest(values, scaled);
    // Only floats have a −0.
    return value === 0 && dtype === 'int8' ? 0 : Math.fround(Math.sign(x) * value * scale);
  });
}

/** Of two that are as near, the one with the even code. */
function nearest(values: readonly number[], x: number): number {
  let [below, above] = [0, values.length - 1];
  while (above - below > 1) {
    const middle = (below + above) >> 1;
    if (values[middle]! <= x) below = middle;
    else above = middle;
  }
  const closer = x - values[below]! - (values[above]! - x);
  return values[closer > 0 || (closer === 0 && above % 2 === 0) ? above : below]!;
}

/** Keys, or values, of tokens [tokens, heads·D] as a cache of the dtype holds them. */
export function heldInCache(dtype: CacheDType, x: Float64Array, headDim: number): Float64Array {
  if (!isRounded(dtype)) return x;
  const held = new Float64Array(x.length);
  for (let at = 0; at < x.length; at += headDim) held.set(roundHead(dtype, x.subarray(at, at + headDim)), at);
  return held;
}
