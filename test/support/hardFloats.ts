/** Numbers of f32 that are hard to round to bf16: ties, their neighbours, subnormals, overflow, infinities, NaN, zeros. */
export const hardFloats: readonly number[] = [1, -1].flatMap((sign) =>
  [
    0,
    1,
    1 + 2 ** -8, // a tie, down to even
    1 + 3 * 2 ** -8, // a tie, up to even
    1 + 2 ** -8 + 2 ** -23,
    1 + 2 ** -8 - 2 ** -23,
    2 - 2 ** -8, // a tie that carries into the exponent
    2 ** -126,
    2 ** -127, // subnormal in both
    2 ** -134, // a tie between zero and the smallest subnormal of bf16
    2 ** -134 + 2 ** -149,
    2 ** -149,
    2 ** 127 * (2 - 2 ** -23), // the largest of f32: rounds to infinity
    2 ** 127 * (2 - 2 ** -7), // the largest of bf16
    2 ** 127 * (2 - 2 ** -8), // a tie with infinity
    Number.POSITIVE_INFINITY,
    Number.NaN,
  ].map((x) => sign * x),
);
