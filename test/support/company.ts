import type { Tensor } from '../../lib/native/tensor.js';
import { assertSameBits } from './compare.js';
import { type DeviceCase, type OpBench, withBench } from './opBench.js';

/** A call on T rows of x, made anew on each bench. */
export interface RowsCall {
  x: Tensor;
  out: Tensor;
  run(x: Tensor, out: Tensor): void;
}

/**
 * Asserts that rows give the same bits alone and in company: all T together, with any of some numbers of threads, and parts
 * of them, by the first row and their number.
 */
export async function assertSameInCompany(
  device: DeviceCase,
  { threads, T, parts }: { threads: readonly number[]; T: number; parts: readonly (readonly [number, number])[] },
  prepare: (bench: OpBench) => RowsCall,
): Promise<void> {
  const compute = (threads: number, row = 0, rows = T) =>
    withBench({ ...device, threads }, async (bench) => {
      const { x, out, run } = prepare(bench);
      const part = out.narrow(0, row, rows);
      run(x.narrow(0, row, rows), part);
      return await bench.read(part);
    });
  const together = await compute(threads[0]!);
  const width = together.length / T;
  for (const number of threads.slice(1)) assertSameBits(await compute(number), together);
  for (const [row, rows] of parts)
    assertSameBits(
      await compute(threads.at(-1)!, row, rows),
      together.subarray(row * width, (row + rows) * width),
      `${rows} rows`,
    );
}
