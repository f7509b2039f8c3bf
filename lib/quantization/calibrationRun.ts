import type { Checkpoint } from '../checkpoint/folder.js';
import { blockSize } from '../model/kvCache.js';
import { layerKey, type SourceTensor, sourceTensors } from '../model/names.js';
import { WeightPlan } from '../model/plan.js';
import { loadWeights, type Weights } from '../model/weights.js';
import type { Device } from '../native/device.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import { Attention, type Placement } from '../nn/attention.js';
import { Embedding } from '../nn/embedding.js';
import { Linear } from '../nn/linear.js';
import { Mlp, SwiGlu } from '../nn/mlp.js';
import { RmsNorm } from '../nn/rmsNorm.js';
import { DeviceScope } from './deviceScope.js';

/** What the matrices of a layer are multiplied with, for the T tokens of the calibration text. bf16; until the next layer. */
export interface LayerInputs {
  /** [T, H]: of q, k and v. */
  qkv: Tensor;
  /** [T, Hq·D] */
  output: Tensor;
  /** [T, H]: of gate and up. */
  gateUp: Tensor;
  /** [T, I] */
  down: Tensor;
}

/** States between layers, of all tokens. */
interface States extends LayerInputs {
  /** [T, H]: the residual stream, without `change`. */
  residual: Tensor;
  /** [T, H]: what the last sublayer adds to it. */
  change: Tensor;
}

/** Tokens that go through attention together, unless a sequence has more. */
const tokensAtOnce = 4096;

/**
 * Takes the calibration text through the model, a layer at a time, as the weights are before they are rounded: each layer's
 * scales are chosen by itself, and a run that is resumed chooses the same. Memory: one layer, and for each token
 * 4·H + Hq·D + I numbers.
 */
export class CalibrationRun {
  readonly #checkpoint: Checkpoint;
  readonly #device: Device;
  readonly #stream: Stream;
  readonly #sequences: readonly Int32Array[];
  readonly #scope: DeviceScope;
  #states!: States;
  /** Of the sequences that are computed together. */
  #placement!: Placement;
  #qkv!: Tensor;
  #cache!: Tensor;

  /** @throws out_of_memory, io_error */
  static async start(
    checkpoint: Checkpoint,
    device: Device,
    stream: Stream,
    sequences: readonly Int32Array[],
  ): Promise<CalibrationRun> {
    const run = new CalibrationRun(checkpoint, device, stream, sequences);
    try {
      await run.#allocate();
      await run.#embed();
    } catch (error) {
      await run.dispose();
      throw error;
    }
    return run;
  }

  private constructor(checkpoint: Checkpoint, device: Device, stream: Stream, sequences: readonly Int32Array[]) {
    this.#checkpoint = checkpoint;
    this.#device = device;
    this.#stream = stream;
    this.#sequences = sequences;
    this.#scope = new DeviceScope(device);
  }

  /** The inputs of a layer: of each in order, from the first on. @throws out_of_memory, io_error */
  async enter(layer: number): Promise<LayerInputs> {
    const weights = await this.#load(({ name }) => name.startsWith(`model.layers.${layer}.`));
    try {
      this.#forward(layer, weights);
      await this.#stream.synchronized();
    } finally {
      await weights.dispose();
    }
    return this.#states;
  }

  dispose(): Promise<void> {
    return this.#scope.dispose();
  }

  get #length(): number {
    return this.#sequences[0]!.length;
  }

  /** Sequences that are computed together. */
  get #atOnce(): number {
    return Math.min(this.#sequences.length, Math.max(1, Math.floor(tokensAtOnce / this.#length)));
  }

  async #allocate(): Promise<void> {
    const { hiddenSize: H, intermediateSize: I, numAttentionHeads, numKvHeads, headDim: D } = this.#checkpoint.config;
    const T = this.#sequences.length * this.#length;
    const bf16 = (columns: number) => this.#scope.tensor('bf16', [T, columns]);
    this.#states = {
      residual: await bf16(H),
      change: await bf16(H),
      qkv: await bf16(H),
      output: await bf16(numAttentionHeads * D),
      gateUp: await bf16(H),
      down: await bf16(I),
    };
    const tokens = this.#atOnce * this.#length;
    this.#qkv = await this.#scope.tensor('bf16', [tokens, (numAttentionHeads + 2 * numKvHeads) * D]);
    const blocks = this.#atOnce * Math.ceil(this.#length / blockSize);
    const blockBytes = this.#device.kvBlockBytes(cacheDtype, numKvHeads, D, blockSize);
    this.#cache = await this.#scope.tensor('u8', [blocks, blockBytes]);
    await this.#place();
  }

  /** Sequences side by side, each from position 0 on, in blocks of its own. */
  async #place(): Promise<void> {
    const [B, L] = [this.#atOnce, this.#length];
    const { headDim, rope } = this.#checkpoint.config;
    const blocks = Math.ceil(L / blockSize);
    const upload = async (shape: number[], value: (i: number) => number) => {
      const tensor = await this.#scope.tensor('i32', shape);
      this.#stream.upload(
        tensor,
        Int32Array.from({ length: tensor.size }, (_, i) => value(i)),
      );
      return tensor;
    };
    const positions = await upload([B * L], (i) => i % L);
    const frequencies = await this.#scope.tensor('f32', [headDim / 2]);
    const ropeTable = await this.#scope.tensor('f32', [B * L, headDim]);
    this.#stream.upload(frequencies, rope.inverseFrequencies);
    this.#stream.run('rope_table', { positions, frequencies, table: ropeTable, scale: rope.attentionFactor });
    this.#placement = {
      ropeTable,
      slots: await upload([B * L], (i) => Math.floor(i / L) * blocks * blockSize + (i % L)),
      blockTables: await upload([B, blocks], (i) => i),
      queryStarts: await upload([B + 1], (b) => b * L),
      contextLengths: await upload([B], () => L),
    };
  }

  async #embed(): Promise<void> {
    const { part } = sourceTensors(this.#checkpoint.config)[0]!;
    const weights = await this.#load((source) => source.name === 'model.embed_tokens.weight');
    const scope = new DeviceScope(this.#device);
    try {
      const embedding = new Embedding(weights.get(part));
      const ids = await scope.tensor('i32', [this.#length]);
      for (const [i, sequence] of this.#sequences.entries()) {
        this.#stream.upload(ids, sequence);
        embedding.forward(this.#stream, ids, this.#states.residual.narrow(0, i * this.#length, this.#length));
      }
      await this.#stream.synchronized();
    } finally {
      await Promise.all([scope.dispose(), weights.dispose()]);
    }
  }

  /** In bf16, whatever the files hold. */
  #load(isWanted: (source: SourceTensor) => boolean): Promise<Weights> {
    const { config } = this.#checkpoint;
    const sources = sourceTensors(config).filter(isWanted);
    const plan = new WeightPlan(
      config,
      sources.map((source) => ({ ...source, matrix: undefined })),
      {},
    );
    return loadWeights(this.#checkpoint, this.#device, this.#stream, { plan });
  }

  #forward(layer: number, weights: Weights): void {
    const { rmsNormEps } = this.#checkpoint.config;
    const { residual, change, qkv, output, gateUp, down } = this.#states;
    const inputNorm = new RmsNorm(weights.get(layerKey(layer, 'inputNorm')), rmsNormEps);
    const postAttentionNorm = new RmsNorm(weights.get(layerKey(layer, 'postAttentionNorm')), rmsNormEps);
    if (layer === 0) inputNorm.forward(this.#stream, residual, qkv);
    else inputNorm.addForward(this.#stream, change, residual, qkv);
    const attention = this.#attention(layer, weights);
    const step = this.#atOnce * this.#length;
    for (let first = 0; first < qkv.shape[0]!; first += step) {
      const tokens = Math.min(step, qkv.shape[0]! - first);
      const part = (tensor: Tensor) => tensor.narrow(0, first, tokens);
      const scratch = { qkv: this.#qkv.narrow(0, 0, tokens), heads: part(output), permuted: undefined };
      attention.forward(this.#stream, part(qkv), this.#placementOf(tokens), scratch, part(change));
    }
    postAttentionNorm.addForward(this.#stream, change, residual, gateUp);
    const mlp = new Mlp(
      new SwiGlu({ tensor: weights.get(layerKey(layer, 'gateUp')), order: undefined }, precision),
      linear(weights, layerKey(layer, 'down')),
    );
    mlp.forward(this.#stream, gateUp, down, change, { permuted: undefined, up: undefined });
  }

  #attention(layer: number, weights: Weights): Attention {
    const { numAttentionHeads: numHeads, numKvHeads, headDim, slidingWindows } = this.#checkpoint.config;
    const qkv = linear(weights, layerKey(layer, 'qkv'), weights.get(layerKey(layer, 'qkvBias')));
    const window = slidingWindows[layer] ?? 0;
    const { batchInvariant } = precision;
    const shape = { numHeads, numKvHeads, headDim, cacheDtype, blockSize, window, batchInvariant };
    return new Attention(qkv, linear(weights, layerKey(layer, 'output')), this.#cache, shape);
  }

  #placementOf(tokens: number): Placement {
    const { ropeTable, slots, blockTables, queryStarts, contextLengths } = this.#placement;
    const B = tokens / this.#length;
    return {
      ropeTable: ropeTable.narrow(0, 0, tokens),
      slots: slots.narrow(0, 0, tokens),
      blockTables: blockTables.narrow(0, 0, B),
      queryStarts: queryStarts.narrow(0, 0, B + 1),
      contextLengths: contextLengths.narrow(0, 0, B),
    };
  }
}

const precision = { exact: true, batchInvariant: false };
const cacheDtype = 'bf16' as const;

function linear(weights: Weights, target: string, bias?: Tensor): Linear {
  return new Linear({ tensor: weights.get(target), order: undefined }, bias, precision);
}
