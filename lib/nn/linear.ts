import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';

/** How a model computes (csrc/ops/linear_int4/linear_int4.h, csrc/ops/linear/linear.h). */
export interface Precision {
  /** With activations as they are where weights are int4 or int8, instead of rounded to 8 bits where a device gains by it. */
  exact: boolean;
  /** With one order of summation, whatever the step has beside a token. */
  batchInvariant: boolean;
}

/** A weight [N, K] in the device's layout: bf16, int4 or int8. */
export interface Weight {
  tensor: Tensor;
  /** i32[K]: which column of x the weight multiplies with column j; undefined: j. */
  order: Tensor | undefined;
}

/** What turns x[T, K] into out[T, N]. `permuted` is scratch, [T, K] at least, where some weight has an order. */
export interface Projection {
  forward(stream: Stream, x: Tensor, out: Tensor, permuted?: Tensor): void;
}

/** y = x·Wᵀ + b, bias f32[N]. */
export class Linear implements Projection {
  readonly weight: Weight;
  readonly bias: Tensor | undefined;
  readonly #precision: Precision;

  constructor(weight: Weight, bias: Tensor | undefined, precision: Precision) {
    this.weight = weight;
    this.bias = bias;
    this.#precision = precision;
  }

  forward(stream: Stream, x: Tensor, out: Tensor, permuted?: Tensor): void {
    const { tensor: weight, order } = this.weight;
    const args = { x: inOrder(stream, x, order, permuted), weight, bias: this.bias, out };
    if (weight.dtype === 'int4') stream.run('linear_int4', { ...args, ...precisionArguments(this.#precision) });
    else if (weight.dtype === 'int8') stream.run('linear_int8', { ...args, ...precisionArguments(this.#precision) });
    else stream.run('linear', { ...args, batch_invariant: Number(this.#precision.batchInvariant) });
  }
}

/** Several linears of one x, whose weights can't be one: their outputs stand side by side in out. */
export class SplitLinear implements Projection {
  readonly #parts: readonly Linear[];

  constructor(parts: readonly Linear[]) {
    this.#parts = parts;
  }

  forward(stream: Stream, x: Tensor, out: Tensor, permuted?: Tensor): void {
    let column = 0;
    for (const part of this.#parts) {
      const width = part.weight.tensor.shape[0]!;
      part.forward(stream, x, out.narrow(1, column, width), permuted);
      column += width;
    }
  }
}

/** x[T, K] with its columns in a weight's order: x itself, or in `permuted`. */
export function inOrder(stream: Stream, x: Tensor, order: Tensor | undefined, permuted: Tensor | undefined): Tensor {
  if (order === undefined) return x;
  const out = permuted!.narrow(1, 0, x.shape[1]!);
  stream.run('permute_columns', { x, columns: order, out });
  return out;
}

export function precisionArguments({ exact, batchInvariant }: Precision) {
  return { exact: Number(exact), batch_invariant: Number(batchInvariant) };
}
