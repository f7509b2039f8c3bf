import { Random } from './random.js';

/** Numbers uniform around zero with the given standard deviation, a function of the seed. */
export function uniforms(size: number, seed: number, deviation = 1): Float32Array {
  const random = new Random(seed);
  const spread = 2 * Math.sqrt(3) * deviation;
  const values = new Float32Array(size);
  for (let i = 0; i < size; i++) values[i] = spread * (random.next() - 0.5);
  return values;
}

/** 0 … size − 1 in random order, a function of the seed (Fisher and Yates). */
export function permutation(size: number, seed: number): number[] {
  const random = new Random(seed);
  const order = Array.from({ length: size }, (_, i) => i);
  for (let i = size - 1; i > 0; i--) {
    const j = random.integer(0, i);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}
