import { bf16Epsilon, f32Epsilon, roundToBf16 } from './bf16.js';
import type { DeviceCase } from './opBench.js';

export type Activation = 'bf16' | 'f32';

/** One rounding to the dtype moves a number by at most this fraction of it. */
export const roundoff: Record<Activation, number> = { bf16: bf16Epsilon, f32: f32Epsilon };

/** The numbers as a tensor of the dtype holds them. */
export function heldAs(dtype: Activation, values: ArrayLike<number>): Float64Array {
  const held = new Float64Array(values.length);
  for (let i = 0; i < held.length; i++) held[i] = dtype === 'bf16' ? roundToBf16(values[i]!) : Math.fround(values[i]!);
  return held;
}

/**
 * What a sum of `terms` products may be off by before it is rounded, as a fraction of the sum of their magnitudes: the
 * contracts' fp32 sum, or `reference`'s float64 sum, which is rounded to f32 once.
 */
export const sumError = (device: DeviceCase, terms: number): number =>
  device.name === 'reference' ? 2 * f32Epsilon : Math.max(terms, 2) * f32Epsilon;

/** What `value` may be off by after an `error` before its rounding to the dtype. Subnormals may be flushed to zero. */
export const afterRounding = (dtype: Activation, value: number, error: number): number =>
  error + roundoff[dtype] * (Math.abs(value) + error) + 2 ** -126;

/** Calls `make` when the value is first asked for, and keeps it: what several devices are held against. */
export function once<T>(make: () => T): () => T {
  let made: { value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}

/** `make` of a dtype and a case, called when it is first asked for and kept: what several devices are held against. */
export function perCase<Case extends object, Made>(
  make: (dtype: Activation, given: Case) => Made,
): (dtype: Activation, given: Case) => Made {
  const made = { bf16: new Map<Case, Made>(), f32: new Map<Case, Made>() };
  return (dtype, given) => {
    if (!made[dtype].has(given)) made[dtype].set(given, make(dtype, given));
    return made[dtype].get(given)!;
  };
}
