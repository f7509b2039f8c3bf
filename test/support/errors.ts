import assert from 'node:assert/strict';
import { Qwen2Error, type Qwen2ErrorCode } from '../../lib/native/errors.js';

/** A Qwen2Error of this code, whose message holds all of the words. */
export function assertQwen2Error(error: unknown, code: Qwen2ErrorCode, words: readonly string[] = []): void {
  assert.ok(error instanceof Qwen2Error, `not a Qwen2Error: ${(error as Error)?.stack ?? String(error)}`);
  assert.equal(error.code, code, error.message);
  for (const word of words) assert.ok(error.message.includes(word), `"${error.message}" lacks "${word}"`);
}

/** Asserts that a call throws a Qwen2Error of this code, whose message holds all of the words. */
export function assertThrowsQwen2(call: () => unknown, code: Qwen2ErrorCode, ...words: string[]): void {
  assert.throws(call, (error) => {
    assertQwen2Error(error, code, words);
    return true;
  });
}

/** Asserts that a promise rejects with a Qwen2Error of this code, whose message holds all of the words. */
export async function assertRejectsQwen2(
  promise: Promise<unknown>,
  code: Qwen2ErrorCode,
  ...words: string[]
): Promise<void> {
  await assert.rejects(promise, (error) => {
    assertQwen2Error(error, code, words);
    return true;
  });
}
