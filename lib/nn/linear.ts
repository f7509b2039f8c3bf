import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';

/** y = x·Wᵀ + b. Weight bf16[N, K] in the device's layout, bias f32[N]. */
export class Linear {
  readonly weight: Tensor;
  readonly bias: Tensor | undefined;

  constructor(weight: Tensor, bias?: Tensor) {
    this.weight = weight;
    this.bias = bias;
  }

  /** x[T, K] → out[T, N] */
  forward(stream: Stream, x: Tensor, out: Tensor): void {
    stream.run('linear', { x, weight: this.weight, bias: this.bias, out });
  }
}
