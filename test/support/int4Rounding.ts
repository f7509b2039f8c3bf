/** Weights rounded to 4 bits, as the contract of quantize_int4 describes it, in f32 steps. */
import { fromF16, roundToEven, toF16 } from './f16.js';
import type { Int4Matrix } from './int4Formats.js';

const f32 = Math.fround;
const clamp = (x: number, low: number, high: number) => Math.min(Math.max(x, low), high);

interface Rounding {
  scale: number;
  zero: number;
  error: number;
}

/** q of a weight. */
const quantized = (w: number, { scale, zero }: Rounding) => clamp(roundToEven(f32(w / scale)) + zero, 0, 15);

function withShrink(group: Float32Array, shrink: number): Rounding {
  const [lo, hi] = [Math.min(0, ...group), Math.max(0, ...group)];
  const scale = fromF16(toF16(clamp(f32(f32(f32(hi - lo) * shrink) / 15), 2 ** -24, 65504)));
  const zero = clamp(roundToEven(f32(f32(-lo * shrink) / scale)), 0, 15);
  const rounding = { scale, zero, error: 0 };
  for (const w of group) {
    const difference = f32(f32(scale * (quantized(w, rounding) - zero)) - w);
    rounding.error = f32(rounding.error + f32(difference * difference));
  }
  return rounding;
}

function best(group: Float32Array, clipSteps: number): Rounding {
  let best = withShrink(group, 1);
  for (let i = 1; i <= clipSteps; i++) {
    const rounding = withShrink(group, f32(1 - f32(i / 40)));
    if (rounding.error < best.error) best = rounding;
  }
  return best;
}

/** The matrix that w [N, K] is rounded to, in groups of K / G columns. */
export function roundedToInt4(w: Float32Array, N: number, K: number, G: number, clipSteps: number): Int4Matrix {
  const q = new Uint8Array(N * K);
  const zeros = new Uint8Array(N * G);
  const scales = new Uint16Array(N * G);
  const size = K / G;
  for (let i = 0; i < N * G; i++) {
    const group = w.subarray(i * size, (i + 1) * size);
    const rounding = best(group, clipSteps);
    q.set(
      group.map((value) => quantized(value, rounding)),
      i * size,
    );
    zeros[i] = rounding.zero;
    scales[i] = toF16(rounding.scale);
  }
  return { N, K, G, q, zeros, scales };
}
