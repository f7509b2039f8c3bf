import type { Tensor } from '../../lib/native/tensor.js';
import type { OpBench } from './opBench.js';
import { uniforms } from './uniforms.js';

/** A product bf16[rows, columns] that was enqueued: on CUDA what is launched behind it may begin before it was written. */
export function productOnItsWay(bench: OpBench, rows: number, columns: number): Tensor {
  const [K, out] = [64, bench.empty('bf16', [rows, columns])];
  const weight = bench.weight('linearWeight', columns, K);
  const source = bench.from('bf16', [columns, K], uniforms(columns * K, 1));
  bench.run('linear_pack', { source, weight, row_offset: 0 });
  const x = bench.from('bf16', [rows, K], uniforms(rows * K, 2));
  bench.run('linear', { x, weight, out, batch_invariant: 0 });
  return out;
}
