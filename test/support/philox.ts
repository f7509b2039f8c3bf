/** Four 32-bit words. */
export type Words = readonly [number, number, number, number];

/**
 * Philox4x32-10 of Random123 (Salmon et al., SC 2011), on JavaScript's numbers: the model that `sample` is held against.
 */
export function philox([c0, c1, c2, c3]: Words, [k0, k1]: readonly [number, number]): Words {
  let counter: Words = [c0 >>> 0, c1 >>> 0, c2 >>> 0, c3 >>> 0];
  for (let round = 0; round < 10; round++) {
    const product0 = 0xd2511f53n * BigInt(counter[0]);
    const product1 = 0xcd9e8d57n * BigInt(counter[2]);
    const key0 = (k0 + round * 0x9e3779b9) >>> 0;
    const key1 = (k1 + round * 0xbb67ae85) >>> 0;
    counter = [
      (Number(product1 >> 32n) ^ counter[1] ^ key0) >>> 0,
      Number(product1 & 0xffffffffn),
      (Number(product0 >> 32n) ^ counter[3] ^ key1) >>> 0,
      Number(product0 & 0xffffffffn),
    ];
  }
  return counter;
}

/** Normally distributed numbers, a function of the seed (Box and Muller, 1958). */
export function gaussians(size: number, seed: number, deviation = 1): Float32Array {
  const values = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    const [a, b] = philox([i, 0, 0, 1], [seed, 0]);
    values[i] = deviation * Math.sqrt(-2 * Math.log((a + 1) / 2 ** 32)) * Math.cos((2 * Math.PI * b) / 2 ** 32);
  }
  return values;
}
