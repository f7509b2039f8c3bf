import { describe } from '../checkpoint/jsonFile.js';
import type { DeviceOptions } from '../native/device.js';
import { Qwen2Error } from '../native/errors.js';
import { type GroupSize, groupSizes } from './shards.js';

export interface QuantizeOptions extends DeviceOptions {
  /**
   * 'rtn' rounds every weight to the nearest of the 16 numbers of its group. 'awq' first scales up the columns whose inputs
   * are large, as much as serves the layer's outputs (Lin et al., arXiv:2306.00978); it needs `calibration`.
   * Default: 'awq' with calibration, else 'rtn'.
   */
  method?: 'rtn' | 'awq' | undefined;
  /** A text like those that the model will see, some ten thousand tokens or more; or its token ids. */
  calibration?: string | { tokens: readonly number[] } | undefined;
  /** Sequences that are taken of the calibration text, evenly spread over it. Default 32. */
  calibrationSequences?: number | undefined;
  /** Tokens of each. Default 512, or what the model can take in at most. */
  calibrationLength?: number | undefined;
  /** Columns that share a scale and a zero: 32, 64 or 128. Default 128. */
  groupSize?: number | undefined;
  /**
   * How many smaller ranges are tried for each group, down to 1 − clipSteps / 40 of it, for the one with the least squared
   * error. 0 to 30; default 20, 0 takes the whole range.
   */
  clipSteps?: number | undefined;
  /** 'auto' (a usable GPU, or else the CPU), 'cuda', 'cuda:1', 'cpu' or 'reference'. Default 'auto'. */
  device?: string | undefined;
  /** Ends the work with an error of code `aborted`. What is written stays, and the same call goes on. */
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: QuantizeProgress) => void) | undefined;
}

export interface QuantizeProgress {
  /** Bytes of the source's tensors that are done with, of so many. */
  doneBytes: number;
  totalBytes: number;
}

type Check = { expected: string; holds: (value: unknown) => boolean };

const wholeNumber = (from: number, to: number): Check => ({
  expected: `a whole number from ${from} to ${to}`,
  holds: (value) => Number.isInteger(value) && (value as number) >= from && (value as number) <= to,
});

const checks: Record<keyof QuantizeOptions, Check> = {
  method: { expected: "'rtn' or 'awq'", holds: (value) => value === 'rtn' || value === 'awq' },
  calibration: {
    expected: 'a text, or { tokens }',
    holds: (value) => typeof value === 'string' || Array.isArray((value as { tokens?: unknown } | null)?.tokens),
  },
  calibrationSequences: wholeNumber(1, 65536),
  calibrationLength: wholeNumber(1, 2 ** 20),
  groupSize: { expected: '32, 64 or 128', holds: (value) => groupSizes.includes(value as GroupSize) },
  clipSteps: wholeNumber(0, 30),
  device: { expected: 'a string', holds: (value) => typeof value === 'string' },
  threads: { expected: 'a number', holds: (value) => typeof value === 'number' },
  simd: { expected: 'a string', holds: (value) => typeof value === 'string' },
  signal: { expected: 'an AbortSignal', holds: (value) => value instanceof AbortSignal },
  onProgress: { expected: 'a function', holds: (value) => typeof value === 'function' },
};

/** The options with defaults, checked. */
export function resolveOptions(options: QuantizeOptions) {
  if (typeof options !== 'object' || options === null)
    throw invalid(`quantizeCheckpoint's options must be an object; got ${describe(options)}`);
  for (const [name, value] of Object.entries(options)) {
    if (!Object.hasOwn(checks, name))
      throw invalid(`There is no option '${name}'; known are ${Object.keys(checks).join(', ')}`);
    const { expected, holds } = checks[name as keyof QuantizeOptions];
    if (value !== undefined && !holds(value)) throw invalid(`${name} is ${describe(value)}; it must be ${expected}`);
  }
  const { calibration, method = calibration === undefined ? 'rtn' : 'awq' } = options;
  if (method === 'awq' && calibration === undefined)
    throw invalid("method 'awq' chooses scales by what a text does in the model; give calibration, a text");
  if (method === 'rtn' && calibration !== undefined)
    throw invalid("method 'rtn' rounds weights by themselves; leave out calibration, or use method 'awq'");
  const { groupSize = 128, clipSteps = 20, calibrationSequences = 32, calibrationLength = 512 } = options;
  return {
    ...options,
    ...{ method, clipSteps, calibrationSequences, calibrationLength },
    groupSize: groupSize as GroupSize,
    device: options.device ?? 'auto',
  };
}

function invalid(message: string): Qwen2Error {
  return new Qwen2Error('invalid_argument', message);
}
