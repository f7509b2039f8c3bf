import type { Qwen2Config } from '../checkpoint/config.js';
import type { Device } from '../native/device.js';
import type { Storage } from '../native/storage.js';
import { type DType, dtypeBytes, Tensor } from '../native/tensor.js';
import type { WeightPlan } from './plan.js';
import type { StepLimits } from './step.js';

/** The activations of one step of T tokens, R rows of which get logits. */
export interface Activations {
  /** [T, H]: input and output of each sublayer. */
  x: Tensor;
  /** [T, H]: the residual stream. */
  residual: Tensor;
  /** [T, (Hq + 2·Hkv)·D] */
  qkv: Tensor;
  /** [T, Hq·D] */
  heads: Tensor;
  /** [T, I] */
  hidden: Tensor;
  /** [T, max(H, Hq·D, I)], where some weight has its columns in an order of its own. */
  permuted: Tensor | undefined;
  /** [T, I], where gate and up are two weights. */
  up: Tensor | undefined;
  /** f32[T, D] */
  ropeTable: Tensor;
}

/** The rows that get logits. */
export interface HeadActivations {
  /** [R, H] */
  x: Tensor;
  /** [R, H] */
  residual: Tensor;
  /** [R, H], where some weight has its columns in an order of its own. */
  permuted: Tensor | undefined;
  /** f32[R, V] */
  logits: Tensor;
}

/** Where a step's activations are: one block of memory, whose size follows from the weights' plan and the limits alone. */
export class Workspace {
  readonly #arena: Storage;
  readonly #config: Qwen2Config;
  readonly #layout: ArenaLayout;
  /** Rows that can get logits at once. */
  readonly logitRows: number;

  private constructor(config: Qwen2Config, layout: ArenaLayout, logitRows: number, arena: Storage) {
    this.#config = config;
    this.#layout = layout;
    this.logitRows = logitRows;
    this.#arena = arena;
  }

  /** @throws out_of_memory */
  static async allocate(
    device: Device,
    weights: WeightPlan,
    limits: StepLimits,
    activation: DType,
  ): Promise<Workspace> {
    const layout = layOut(weights, limits, activation);
    return new Workspace(weights.config, layout, limits.logitRows, await device.allocateInBackground(layout.bytes));
  }

  static bytes(weights: WeightPlan, limits: StepLimits, activation: DType): number {
    return layOut(weights, limits, activation).bytes;
  }

  /** The activations of a step of so many tokens. */
  step(tokens: number): Activations {
    const { hiddenSize: H, intermediateSize: I, numAttentionHeads, numKvHeads, headDim: D } = this.#config;
    const heads = numAttentionHeads * D;
    return {
      x: this.#tensor('x', tokens, H),
      residual: this.#tensor('residual', tokens, H),
      qkv: this.#tensor('qkv', tokens, heads + 2 * numKvHeads * D),
      heads: this.#tensor('heads', tokens, heads),
      hidden: this.#tensor('hidden', tokens, I),
      permuted: this.#layout.parts.permuted && this.#tensor('permuted', tokens, Math.max(H, heads, I)),
      up: this.#layout.parts.up && this.#tensor('up', tokens, I),
      ropeTable: this.#tensor('ropeTable', tokens, D),
    };
  }

  /** The activations of so many rows that get logits. */
  head(rows: number): HeadActivations {
    const { hiddenSize: H, vocabularySize: V } = this.#config;
    return {
      x: this.#tensor('headX', rows, H),
      residual: this.#tensor('headResidual', rows, H),
      permuted: this.#layout.parts.headPermuted && this.#tensor('headPermuted', rows, H),
      logits: this.#tensor('logits', rows, V),
    };
  }

  dispose(): Promise<void> {
    return this.#arena.dispose();
  }

  #tensor(name: ArenaPart, rows: number, columns: number): Tensor {
    const { offset, dtype } = this.#layout.parts[name]!;
    return new Tensor(this.#arena, dtype, [rows, columns], { byteOffset: offset });
  }
}

type ArenaPart = keyof Activations | 'headX' | 'headResidual' | 'headPermuted' | 'logits';

interface ArenaLayout {
  parts: Record<ArenaPart, { dtype: DType; offset: number } | undefined>;
  bytes: number;
}

/** Where each part begins: on boundaries of 256 bytes, which the widest load of every device is content with. */
function layOut(
  { config, permutesColumns, splitsGateUp }: WeightPlan,
  { tokens: T, logitRows: R }: StepLimits,
  activation: DType,
): ArenaLayout {
  const { hiddenSize: H, intermediateSize: I, numAttentionHeads, numKvHeads, headDim: D } = config;
  let bytes = 0;
  const part = (dtype: DType, elements: number) => {
    const offset = bytes;
    bytes += Math.ceil((elements * dtypeBytes[dtype]) / 256) * 256;
    return { dtype, offset };
  };
  const parts = {
    x: part(activation, T * H),
    residual: part(activation, T * H),
    qkv: part(activation, T * (numAttentionHeads + 2 * numKvHeads) * D),
    heads: part(activation, T * numAttentionHeads * D),
    hidden: part(activation, T * I),
    permuted: permutesColumns ? part(activation, T * Math.max(H, numAttentionHeads * D, I)) : undefined,
    up: splitsGateUp ? part(activation, T * I) : undefined,
    ropeTable: part('f32', T * D),
    headX: part(activation, R * H),
    headResidual: part(activation, R * H),
    headPermuted: permutesColumns ? part(activation, R * H) : undefined,
    logits: part('f32', R * config.vocabularySize),
  };
  return { parts, bytes };
}
