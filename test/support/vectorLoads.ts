import assert from 'node:assert/strict';
import { type DeviceCase, isCuda, type OpBench } from './opBench.js';

/** Rows of x that a matrix product reads, `gap` elements apart beyond their K. */
interface RowsOfX {
  T: number;
  K: number;
  gap?: number;
}

/** What a device that loads 16 bytes of x at a time says to other rows; undefined where it takes them. */
export function refusalOf(device: DeviceCase, { T, K, gap = 0 }: RowsOfX): RegExp | undefined {
  if (!isCuda(device)) return undefined;
  if (K % 8 !== 0) return new RegExp(`CUDA devices take K in multiples of 8, not ${K};`);
  if (T > 1 && gap % 8 !== 0)
    return new RegExp(
      `CUDA devices take rows of x that begin at multiples of 16 bytes; .*rows are ${K + gap} elements apart;`,
    );
  return undefined;
}

export const assertRefused = (bench: OpBench, message: RegExp): Promise<void> =>
  assert.rejects(bench.stream.synchronized(), { code: 'unsupported', message });
