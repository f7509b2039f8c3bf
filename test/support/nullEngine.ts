import { parseConfig } from '../../lib/checkpoint/config.js';
import { qwen2Shapes } from '../../lib/checkpoint/shapes.js';
import { Engine } from '../../lib/engine/engine.js';
import { type EngineOptions, planMemory } from '../../lib/engine/memory.js';
import type { Sequence, SequenceRequest } from '../../lib/engine/sequence.js';
import { planRandomWeights } from '../../lib/model/plan.js';
import { randomWeights } from '../../lib/model/weights.js';
import { Device } from '../../lib/native/device.js';
import type { OpName } from '../../lib/native/ops.js';
import { Storage } from '../../lib/native/storage.js';
import { Graph, Stream } from '../../lib/native/stream.js';
import type { Tensor } from '../../lib/native/tensor.js';
import { resolveSamplingParameters, type SamplingParameters } from '../../lib/sampler/parameters.js';
import { waitedForCore } from './eventLoop.js';

class NullStorage extends Storage {
  override async dispose(): Promise<void> {}
}

class NullGraph extends Graph {
  override dispose(): void {}
}

/** Takes all work and does none of it; what it is asked for is there at the next turn of the event loop, or at once. */
class NullStream extends Stream {
  /** What it was asked for, in order; but for what a capture recorded. */
  readonly calls: string[] = [];

  override run(name: OpName): void {
    this.calls.push(name);
  }

  override upload(): void {
    this.calls.push('upload');
  }

  override launch(): void {
    this.calls.push('launch');
  }

  override dispose(): void {}

  override async download<Into>(_: Tensor, to: Into): Promise<Into> {
    this.calls.push('download');
    return to;
  }

  readonly #atOnce: boolean;

  constructor(atOnce: boolean) {
    super(0);
    this.#atOnce = atOnce;
  }

  override synchronized(): Promise<void> {
    return this.#atOnce ? Promise.resolve() : new Promise(setImmediate);
  }

  override capture(body: () => void): Graph {
    const before = this.calls.length;
    body();
    this.calls.length = before;
    return new NullGraph(0);
  }
}

/** A device whose memory holds nothing. */
function nullDevice(): Device {
  const allocate = (bytes: number) => new NullStorage(0, bytes);
  return Object.assign(Object.create(Device.prototype), {
    name: 'cpu',
    allocate,
    allocateInBackground: async (bytes: number) => allocate(bytes),
    describe: () => ({ freeBytes: 1e12 }),
    packedBytes: (rows: number, columns: number) => 2 * rows * columns,
    kvBlockBytes: () => 1,
  });
}

const shape = 'qwen2-0.5b';

/**
 * An engine on a device that computes nothing: what its steps take is what the JavaScript thread does for each, but for the
 * calls of the addon. Every token is 0.
 */
export async function nullEngine(
  options: EngineOptions,
  { atOnce = false } = {},
): Promise<{ engine: Engine; stream: NullStream }> {
  const device = nullDevice();
  const stream = new NullStream(atOnce);
  const weightPlan = planRandomWeights(parseConfig(qwen2Shapes[shape], shape));
  const weights = await randomWeights(weightPlan, device, stream);
  const plan = planMemory(device, weightPlan, 'bf16', 1e12, options);
  const precision = { exact: false, batchInvariant: false };
  const engine = await Engine.create({ device, stream, weights, precision, plan, activation: 'bf16' });
  return { engine, stream };
}

/** Submits a sequence of a prompt of its own, of 5 to 20 tokens, so that blocks don't end at one step for all. */
export function submitTo(engine: Engine, index: number, given: SamplingParameters & { maxTokens: number }): Sequence {
  const limits = { vocabularySize: qwen2Shapes[shape].vocab_size, maxLogprobs: 20 };
  const request: SequenceRequest = {
    prompt: Array.from({ length: 5 + (index % 16) }, (_, i) => (i === 0 ? index : i)),
    parameters: resolveSamplingParameters({ seed: index, ...given }, {}, limits),
    stopTokens: new Set([1, 2]),
    maxTokens: given.maxTokens,
    priority: 0,
    choice: 0,
  };
  return engine.submit(request, { onToken: () => false, onEnd: () => {}, onError: () => {} });
}

/**
 * Microseconds that each of so many steps takes, with so many sequences generating and others waiting, less the time in which
 * the operating system gave the core to others. Steps before, in which prompts are computed and code is compiled, don't count.
 */
export async function stepMicroseconds(generating: number, waiting: number, steps: number): Promise<number[]> {
  const warmUp = 300;
  const maxTokens = warmUp + steps + generating;
  const contextLength = maxTokens + 32;
  const cacheTokens = generating * contextLength;
  const { engine, stream } = await nullEngine({
    maxSequences: generating,
    contextLength,
    cacheTokens,
    stepTokens: 1024,
  });
  // One in four has a history on the device.
  for (let i = 0; i < generating + waiting; i++)
    submitTo(engine, i, { maxTokens, temperature: 0.7, topP: 0.8, frequencyPenalty: i % 4 === 0 ? 0.5 : 0 });
  const times: number[] = [];
  await new Promise<void>((resolve) => {
    let [started, waited] = [performance.now(), waitedForCore()];
    engine.events.on('step', () => {
      const ended = performance.now();
      const waitedBefore = waited;
      stream.calls.length = 0;
      waited = waitedForCore();
      times.push(1000 * Math.max(0, ended - started - (waited - waitedBefore)));
      if (times.length === warmUp + steps) resolve();
      started = performance.now();
    });
  });
  await engine.dispose();
  return times.slice(warmUp);
}
