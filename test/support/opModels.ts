/** The operations in float64, written from their contracts: what every device, `reference` included, is held against. */

/** x[T, H] / rms(x) · weight[H]. */
export function rmsNorm(x: Float64Array, weight: Float64Array, eps: number): Float64Array {
  const H = weight.length;
  const out = new Float64Array(x.length);
  for (let t = 0; t < x.length / H; t++) {
    const row = x.subarray(t * H, (t + 1) * H);
    const scale = 1 / Math.sqrt(row.reduce((sum, value) => sum + value * value, 0) / H + eps);
    for (let i = 0; i < H; i++) out[t * H + i] = row[i]! * scale * weight[i]!;
  }
  return out;
}

/** Sums of products, with the sums of their magnitudes, which rounding errors are proportional to. */
export interface Products {
  sums: Float64Array;
  magnitudes: Float64Array;
}

/** x[T, K] · weight[N, K]ᵀ → [T, N]. */
export function products(x: Float64Array, weight: Float64Array, K: number): Products {
  const [T, N] = [x.length / K, weight.length / K];
  const sums = new Float64Array(T * N);
  const magnitudes = new Float64Array(T * N);
  for (let t = 0; t < T; t++)
    for (let n = 0; n < N; n++) {
      let [sum, magnitude] = [0, 0];
      for (let k = 0; k < K; k++) {
        const product = x[t * K + k]! * weight[n * K + k]!;
        sum += product;
        magnitude += Math.abs(product);
      }
      sums[t * N + n] = sum;
      magnitudes[t * N + n] = magnitude;
    }
  return { sums, magnitudes };
}

/** SiLU (arXiv:1702.03118). */
export const silu = (a: number): number => a / (1 + Math.exp(-a));

/** A head of D elements rotated by cos[D/2] and sin[D/2] (half rotation). */
export function rotate(x: Float64Array, cos: ArrayLike<number>, sin: ArrayLike<number>): Float64Array {
  const half = x.length / 2;
  return x.map((value, j) =>
    j < half ? value * cos[j]! - x[j + half]! * sin[j]! : value * cos[j - half]! + x[j - half]! * sin[j - half]!,
  );
}
