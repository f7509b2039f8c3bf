import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import type { Linear } from './linear.js';

/** SwiGLU feed-forward: down(silu(gate(x)) ∘ up(x)), with gate and up as one weight bf16[2·I, H]. */
export class Mlp {
  readonly gateUp: Tensor;
  readonly down: Linear;

  constructor(gateUp: Tensor, down: Linear) {
    this.gateUp = gateUp;
    this.down = down;
  }

  /** x[T, H] → out[T, H] by way of hidden[T, I]; out may be x. */
  forward(stream: Stream, x: Tensor, hidden: Tensor, out: Tensor): void {
    stream.run('swiglu', { x, weight: this.gateUp, out: hidden });
    this.down.forward(stream, hidden, out);
  }
}
