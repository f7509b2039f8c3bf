import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import { sourceTensors } from '../../lib/model/names.js';
import { loadWeights } from '../../lib/model/weights.js';
import { type FixtureName, fixtureFolder } from './checkpoints.js';
import { reference, withBench } from './opBench.js';

/** A module's 4-bit matrix as loaded, [in, out]: what `reference` makes of an identity. */
export async function dequantized(fixture: FixtureName, module: string): Promise<Float32Array> {
  const checkpoint = await openCheckpoint(fixtureFolder(fixture));
  const source = sourceTensors(checkpoint.config).find(({ name }) => name === `${module}.weight`)!;
  return withBench(reference, async (bench) => {
    const weights = await loadWeights(checkpoint, bench.device, bench.stream);
    const alone = !weights.has(source.target);
    const key = alone ? source.ownTarget : source.target;
    const [weight, columns] = [weights.get(key), weights.order(key)];
    const [N, K] = weight.shape as [number, number];
    const identity = new Float32Array(K * K);
    for (let k = 0; k < K; k++) identity[k * K + k] = 1;
    const [x, out] = [bench.from('f32', [K, K], identity), bench.empty('f32', [K, N])];
    const permuted = bench.empty('f32', [K, K]);
    if (columns) bench.run('permute_columns', { x, columns, out: permuted });
    bench.run('linear_int4', { x: columns ? permuted : x, weight, out, exact: 1, batch_invariant: 0 });
    const own = await bench.read(out.narrow(1, alone ? 0 : source.rowOffset, source.shape[0]!));
    await weights.dispose();
    return Float32Array.from(own);
  });
}
