import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';

/** RMSNorm with weight f32[H]. */
export class RmsNorm {
  readonly weight: Tensor;
  readonly eps: number;

  constructor(weight: Tensor, eps: number) {
    this.weight = weight;
    this.eps = eps;
  }

  /** x[T, H] → out[T, H] */
  forward(stream: Stream, x: Tensor, out: Tensor): void {
    stream.run('rms_norm', { x, weight: this.weight, out, eps: this.eps });
  }

  /** residual += x, then residual → out, all [T, H]; out may be x. */
  addForward(stream: Stream, x: Tensor, residual: Tensor, out: Tensor): void {
    stream.run('add_rms_norm', { x, residual, weight: this.weight, out, eps: this.eps });
  }
}
