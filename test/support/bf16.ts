const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** Rounds to bf16, nearest even; the result as a number. */
export function roundToBf16(x: number): number {
  return fromBf16(toBf16(x));
}

/** The 16 bits of x rounded to bf16, nearest even. */
export function toBf16(x: number): number {
  float[0] = x;
  const all = bits[0]!;
  if ((all & 0x7fffffff) > 0x7f800000) return (all >>> 16) | 0x40;
  return ((all + 0x7fff + ((all >>> 16) & 1)) >>> 16) & 0xffff;
}

/** The number that 16 bits of bf16 stand for. */
export function fromBf16(half: number): number {
  bits[0] = half << 16;
  return float[0]!;
}

/** One rounding to bf16 moves a number by at most this fraction of it. */
export const bf16Epsilon = 2 ** -8;
/** One rounding to f32 moves a number by at most this fraction of it. */
export const f32Epsilon = 2 ** -24;
