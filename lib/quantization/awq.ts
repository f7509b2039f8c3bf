import type { Checkpoint } from '../checkpoint/folder.js';
import type { TensorEntry } from '../checkpoint/safetensors.js';
import type { TensorReader } from '../checkpoint/tensorReader.js';
import { layerKey, type SourceTensor } from '../model/names.js';
import type { Device } from '../native/device.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import { CalibrationRun } from './calibrationRun.js';
import { DeviceScope } from './deviceScope.js';
import { inverseOf, ScaleSearch, type SearchOptions } from './scaleSearch.js';
import type { Shard } from './shards.js';
import type { Scales } from './shardWriter.js';

/** A layer's matrices of one input, and what the input's scales are taken out of before. By the names of layerKey. */
interface ScaledInput {
  input: 'qkv' | 'output' | 'gateUp' | 'down';
  matrices: readonly string[];
  /** What makes the input, column by column: a norm, or a matrix by its rows, and its bias. */
  makers: readonly string[];
}

const scaledInputs: readonly ScaledInput[] = [
  { input: 'qkv', matrices: ['q', 'k', 'v'], makers: ['inputNorm'] },
  { input: 'output', matrices: ['output'], makers: ['v', 'vBias'] },
  { input: 'gateUp', matrices: ['gate', 'up'], makers: ['postAttentionNorm'] },
  { input: 'down', matrices: ['down'], makers: ['up'] },
];

/**
 * AWQ's scales of a checkpoint's layers, one after the other. Those of o_proj's input are taken out of v_proj, where each of
 * its rows makes one column: not where heads share keys and values.
 */
export class AwqScales {
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #run: CalibrationRun;
  readonly #search: ScaleSearch;
  readonly #inputs: readonly ScaledInput[];
  /** Layers that the calibration text has gone through. */
  #entered = 0;

  /** @throws out_of_memory, io_error */
  static async start(
    checkpoint: Checkpoint,
    device: Device,
    stream: Stream,
    reader: TensorReader,
    { sequences, ...options }: SearchOptions & { sequences: readonly Int32Array[] },
  ): Promise<AwqScales> {
    const { hiddenSize, numAttentionHeads, numKvHeads, headDim } = checkpoint.config;
    const sharesHeads = numKvHeads !== numAttentionHeads || numKvHeads * headDim !== hiddenSize;
    const inputs = scaledInputs.filter(({ input }) => input !== 'output' || !sharesHeads);
    const run = await CalibrationRun.start(checkpoint, device, stream, sequences);
    return new AwqScales(device, stream, run, new ScaleSearch(device, stream, reader, options), inputs);
  }

  private constructor(
    device: Device,
    stream: Stream,
    run: CalibrationRun,
    search: ScaleSearch,
    inputs: readonly ScaledInput[],
  ) {
    this.#device = device;
    this.#stream = stream;
    this.#run = run;
    this.#search = search;
    this.#inputs = inputs;
  }

  /**
   * Calls `use` with what each tensor of a layer is to be multiplied with. Layers come in order; what is left out is only
   * computed.
   *
   * @throws aborted, io_error, out_of_memory, invalid_checkpoint
   */
  async ofLayer(shard: Shard, use: (scalesOf: (source: SourceTensor) => Scales) => Promise<void>): Promise<void> {
    const layer = shard.layer!;
    while (this.#entered < layer) await this.#run.enter(this.#entered++);
    const states = await this.#run.enter(this.#entered++);
    const entries = new Map(shard.sources.map(({ ownTarget, entry }) => [ownTarget, entry]));
    const scales = new Map<string, Scales>();
    const scope = new DeviceScope(this.#device);
    try {
      for (const { input, matrices, makers } of this.#inputs) {
        const entry = (name: string): TensorEntry => entries.get(layerKey(layer, name))!;
        const chosen = await this.#search.run(states[input], matrices.map(entry));
        const factors = await this.#upload(chosen.scales, scope);
        const inverse = await this.#upload(inverseOf(chosen.scales), scope);
        const add = (name: string, more: Scales) =>
          scales.set(layerKey(layer, name), { ...scales.get(layerKey(layer, name)), ...more });
        for (const name of matrices) add(name, { columns: factors });
        for (const name of makers) add(name, entry(name).shape.length === 1 ? { columns: inverse } : { rows: inverse });
      }
      await use(({ ownTarget }) => scales.get(ownTarget) ?? {});
    } finally {
      await scope.dispose();
    }
  }

  dispose(): Promise<void> {
    return this.#run.dispose();
  }

  async #upload(values: Float32Array, scope: DeviceScope): Promise<Tensor> {
    const tensor = await scope.tensor('f32', [values.length]);
    this.#stream.upload(tensor, values);
    return tensor;
  }
}
