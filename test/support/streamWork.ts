import assert from 'node:assert/strict';
import { Qwen2Error, type Qwen2ErrorCode } from '../../lib/native/errors.js';
import type { Stream } from '../../lib/native/stream.js';
import type { Tensor } from '../../lib/native/tensor.js';
import type { DeviceCase, OpBench } from './opBench.js';

/** The devices of this library; streams, events and graphs behave alike on both. */
export const hostDevices: readonly DeviceCase[] = [
  { title: 'reference', name: 'reference' },
  { title: 'cpu', name: 'cpu', threads: 2 },
];

/** For `assert.throws` and `assert.rejects`: a Qwen2Error of the code, with every pattern in its message. */
export function failure(code: Qwen2ErrorCode, ...patterns: readonly RegExp[]): (error: unknown) => true {
  return (error) => {
    assert.ok(error instanceof Qwen2Error, `a Qwen2Error, not ${error}`);
    assert.equal(error.code, code, error.message);
    for (const pattern of patterns) assert.match(error.message, pattern);
    return true;
  };
}

/** Enqueues about 10 ms of work, `times` over. */
export function occupy(bench: OpBench, times: number, stream: Stream = bench.stream): void {
  const out = bench.empty('f32', [1 << 22]);
  for (let i = 0; i < times; i++) stream.run('fill_random', { out, seed: i, mean: 0, std: 1 });
}

/** x [4, 3] of 0 … 11, `out` of its shape, and rows that reverse it: a small gather_rows. */
export function smallGather(bench: OpBench, rows: readonly number[] = [3, 2, 1, 0]) {
  return {
    x: bench.from('bf16', [4, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
    rows: bench.from('i32', [rows.length], rows),
    out: bench.empty('bf16', [rows.length, 3]),
  };
}

export const reversed = [9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2];

/** Enqueues a gather_rows that fails when it runs: its row `row` isn't there. */
export function fail(bench: OpBench, row: number, stream: Stream = bench.stream): void {
  const rows = bench.empty('i32', [1]);
  stream.upload(rows, Int32Array.of(row));
  stream.run('gather_rows', { x: bench.empty('bf16', [4, 3]), rows, out: bench.empty('bf16', [1, 3]) });
}

/** What the failure of `fail` says: the reason, the call with its shapes, the device. */
export const failedGather = (row: number) =>
  failure(
    'invalid_argument',
    new RegExp(`rows\\[0\\] = ${row} is outside the 4 rows of x`),
    /in gather_rows\(x bf16\[4, 3\], rows i32\[1\], out bf16\[1, 3\]\) on (cpu|reference)/,
  );

/** Bytes of a contiguous tensor, as they lie on the device. */
export function bitsOf(stream: Stream, tensor: Tensor): Promise<Uint8Array> {
  return stream.download(tensor, new Uint8Array(tensor.byteLength));
}
