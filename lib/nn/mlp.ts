import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import { inOrder, type Linear, type Precision, precisionArguments, type Weight } from './linear.js';

/** Memory beside hidden[T, I]: [T, max(H, I)] where some weight has an order, [T, I] where gate and up are two weights. */
export interface MlpScratch {
  permuted: Tensor | undefined;
  up: Tensor | undefined;
}

/** silu(gate(x)) ∘ up(x): x[T, H] → out[T, I]. */
export interface GatedUnit {
  forward(stream: Stream, x: Tensor, out: Tensor, scratch: MlpScratch): void;
}

/** Gate and up as one weight [2·I, H]: neither product reaches memory. */
export class SwiGlu implements GatedUnit {
  readonly #weight: Weight;
  readonly #precision: Precision;

  constructor(weight: Weight, precision: Precision) {
    this.#weight = weight;
    this.#precision = precision;
  }

  forward(stream: Stream, x: Tensor, out: Tensor, { permuted }: MlpScratch): void {
    const { tensor: weight, order } = this.#weight;
    const args = { x: inOrder(stream, x, order, permuted), weight, out };
    if (weight.dtype === 'int4') stream.run('swiglu_int4', { ...args, ...precisionArguments(this.#precision) });
    else stream.run('swiglu', { ...args, batch_invariant: Number(this.#precision.batchInvariant) });
  }
}

/** Gate and up as two weights: of different types, or with columns in different orders. */
export class SplitSwiGlu implements GatedUnit {
  readonly #gate: Linear;
  readonly #up: Linear;

  constructor(gate: Linear, up: Linear) {
    this.#gate = gate;
    this.#up = up;
  }

  forward(stream: Stream, x: Tensor, out: Tensor, { permuted, up }: MlpScratch): void {
    this.#gate.forward(stream, x, out, permuted);
    this.#up.forward(stream, x, up!, permuted);
    stream.run('silu_mul', { gate: out, up: up!, out });
  }
}

/** SwiGLU feed-forward: down(silu(gate(x)) ∘ up(x)). */
export class Mlp {
  readonly #gateUp: GatedUnit;
  readonly #down: Linear;

  constructor(gateUp: GatedUnit, down: Linear) {
    this.#gateUp = gateUp;
    this.#down = down;
  }

  /** x[T, H] → out[T, H] by way of hidden[T, I]; out may be x. */
  forward(stream: Stream, x: Tensor, hidden: Tensor, out: Tensor, scratch: MlpScratch): void {
    this.#gateUp.forward(stream, x, hidden, scratch);
    this.#down.forward(stream, hidden, out, scratch.permuted);
  }
}
