import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';

/** Token embeddings bf16[V, H]; where they are tied, the LM head's own weight. */
export class Embedding {
  readonly table: Tensor;

  constructor(table: Tensor) {
    this.table = table;
  }

  /** ids i32[T] → out[T, H] */
  forward(stream: Stream, ids: Tensor, out: Tensor): void {
    stream.run('embedding', { ids, table: this.table, out });
  }
}
