import assert from 'node:assert/strict';

/**
 * Asserts |actual − expected| ≤ tolerance for every element; the tolerance is a number or a function of the index. A NaN
 * on either side fails.
 */
export function assertClose(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  tolerance: number | ((index: number) => number),
  what = 'value',
): void {
  assert.equal(actual.length, expected.length, `${what}: number of elements`);
  for (let i = 0; i < actual.length; i++) {
    const error = Math.abs(actual[i]! - expected[i]!);
    const allowed = typeof tolerance === 'number' ? tolerance : tolerance(i);
    if (!(error <= allowed))
      assert.fail(`${what}[${i}] is ${actual[i]}, expected ${expected[i]}: off by ${error}, allowed ${allowed}`);
  }
}

/** Asserts that both hold the same bits, NaNs included. */
export function assertSameBits(actual: ArrayLike<number>, expected: ArrayLike<number>, what = 'value'): void {
  assert.equal(actual.length, expected.length, `${what}: number of elements`);
  for (let i = 0; i < actual.length; i++)
    if (!Object.is(actual[i], expected[i]))
      assert.fail(`${what}[${i}] is ${actual[i]}, expected exactly ${expected[i]}`);
}

/** Root of the mean of squares of the differences. */
export function rmsError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < actual.length; i++) sum += (actual[i]! - expected[i]!) ** 2;
  return Math.sqrt(sum / actual.length);
}
