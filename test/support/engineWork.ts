import assert from 'node:assert/strict';
import type { Logprobs } from '../../lib/engine/sequence.js';
import type { SamplingParameters } from '../../lib/sampler/parameters.js';
import { fixtureFolder } from './checkpoints.js';
import type { EngineBench, Outcome, Submission } from './engineBench.js';
import { type DeviceCase, isCuda } from './opBench.js';
import { philox } from './philox.js';

/** A checkpoint small enough to compute steps by the thousand, and its vocabulary. */
export const engineFolder = fixtureFolder('qwen2-gqa-8h2kv');
export const vocabularySize = 512;

/** A prompt of random tokens, a function of the seed. */
export const promptOf = (length: number, seed: number) =>
  Array.from({ length }, (_, i) => philox([i, 0, 0, 3], [seed, 0])[0] % vocabularySize);

export interface Work extends SamplingParameters {
  prompt: number[];
  choice?: number;
  priority?: number;
}

/** Submits work; what is called as it goes on may interrupt it. */
export const start = (
  bench: EngineBench,
  { prompt, ...given }: Work,
  calls: Pick<Submission, 'onToken' | 'onPrompt'> = {},
) => bench.submit(prompt, { ...given, ...calls });

export const submit = (bench: EngineBench, work: Work) => start(bench, work).done;

/** What each work gives by itself, one after the other. */
export async function oneByOne(bench: EngineBench, works: readonly Work[]): Promise<Outcome[]> {
  const outcomes: Outcome[] = [];
  for (const work of works) outcomes.push(await submit(bench, work));
  return outcomes;
}

/** How far apart log-probabilities of one token may be on CUDA, where the order of sums depends on the step. */
const cudaTolerance = 0.05;

/**
 * Asserts that an outcome is the one that the same work had alone: to the bit, or on CUDA to a tolerance, and up to where
 * two tokens are so nearly equally probable that either may be chosen.
 */
export function assertAsAlone(device: DeviceCase, actual: Outcome, expected: Outcome, what: string): void {
  if (isCuda(device)) assertNearlyAlone(actual, expected, what);
  else assert.deepStrictEqual(actual, expected, what);
}

function assertNearlyAlone(actual: Outcome, expected: Outcome, what: string): void {
  assert.deepEqual(actual.ends, expected.ends, what);
  assert.equal(actual.tokens.length, expected.tokens.length, what);
  assert.equal(actual.prompt.length, expected.prompt.length, what);
  for (const [i, entry] of expected.prompt.entries()) assertNear(actual.prompt[i], entry, `${what}, prompt token ${i}`);
  for (const [i, entry] of expected.logprobs.entries()) {
    const found = actual.logprobs[i];
    if (actual.tokens[i] !== expected.tokens[i]) {
      const other = entry?.top.find(({ token }) => token === actual.tokens[i]);
      assert.ok(other !== undefined && entry!.logprob - other.logprob < cudaTolerance, `${what}, token ${i}`);
      return;
    }
    assertNear(found, entry, `${what}, token ${i}`);
  }
}

function assertNear(actual: Logprobs | undefined, expected: Logprobs | undefined, what: string): void {
  assert.equal(actual?.token, expected?.token, what);
  const difference = Math.abs((actual?.logprob ?? 0) - (expected?.logprob ?? 0));
  assert.ok(difference < cudaTolerance, `${what}: log-probabilities differ by ${difference}`);
}
