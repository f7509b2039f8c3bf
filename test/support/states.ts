import { openCheckpoint } from '../../lib/checkpoint/folder.js';
import { blockSize, KvCache } from '../../lib/model/kvCache.js';
import { Qwen2 } from '../../lib/model/qwen2.js';
import { StepInputs } from '../../lib/model/step.js';
import { loadWeights } from '../../lib/model/weights.js';
import { Workspace } from '../../lib/model/workspace.js';
import { Device } from '../../lib/native/device.js';
import type { Tensor } from '../../lib/native/tensor.js';
import { type FixtureName, fixtureFolder } from './checkpoints.js';

/** Every named state of the decoder for a prompt, as `reference` computes it in float32. */
export async function observeStates(
  fixture: FixtureName,
  tokens: readonly number[],
): Promise<Map<string, Float32Array>> {
  const checkpoint = await openCheckpoint(fixtureFolder(fixture));
  const { config } = checkpoint;
  const T = tokens.length;
  const blocksPerSequence = Math.ceil(T / blockSize);
  const limits = { tokens: T, sequences: 1, logitRows: T, blocksPerSequence };
  const device = Device.open('reference');
  const stream = device.createStream();
  const weights = await loadWeights(checkpoint, device, stream);
  const cache = await KvCache.allocate(device, config, 'f32', blocksPerSequence);
  const workspace = await Workspace.allocate(device, weights.plan, limits, 'f32');
  const inputs = new StepInputs(device, limits);
  const rows = device.tensor('i32', [T]);
  const model = new Qwen2(weights, { exact: true, batchInvariant: false }, cache, workspace, device, stream);
  try {
    const ascending = Int32Array.from({ length: T }, (_, i) => i);
    inputs.uploadBlocks(stream, 0, 0, ascending.slice(0, blocksPerSequence));
    const step = inputs.upload(stream, {
      ids: Int32Array.from(tokens),
      positions: ascending,
      slots: ascending,
      queryStarts: Int32Array.of(0, T),
      contextLengths: Int32Array.of(T),
    });
    stream.upload(rows, ascending);
    const states = new Map<string, Promise<Float32Array>>();
    const observe = (name: string, state: Tensor) =>
      void states.set(name, stream.download(state, new Float32Array(state.size)));
    model.forward(stream, step, observe);
    model.logits(stream, T, rows, observe);
    await stream.synchronized();
    return new Map(await Promise.all([...states].map(async ([name, state]) => [name, await state] as const)));
  } finally {
    for (const part of [model, rows.storage, inputs, workspace, cache, weights]) await part.dispose();
    stream.dispose();
    device.dispose();
  }
}
