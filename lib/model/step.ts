import type { Device } from '../native/device.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';

/** How much one step may hold, and so how large the memory is that steps share. */
export interface StepLimits {
  /** Tokens of all sequences together. */
  tokens: number;
  sequences: number;
  /** Rows that get logits at once. */
  logitRows: number;
  /** Blocks of one sequence: its context length ÷ the block size, rounded up. */
  blocksPerSequence: number;
}

/** What a step computes, on the device: T tokens of B sequences, of which R rows get logits. All i32. */
export interface Step {
  /** [T] */
  ids: Tensor;
  /** [T] */
  positions: Tensor;
  /** [T]: block · block size + place in the block; −1 for padding. */
  slots: Tensor;
  /** [B + 1]: where each sequence's tokens begin. */
  queryStarts: Tensor;
  /** [B]: tokens of each sequence up to the end of this step. */
  contextLengths: Tensor;
  /** [B, blocksPerSequence] */
  blockTables: Tensor;
}

/** The same, on the host. Typed arrays are read when `upload` is called. */
export interface HostStep {
  ids: Int32Array;
  positions: Int32Array;
  slots: Int32Array;
  queryStarts: Int32Array;
  contextLengths: Int32Array;
}

/**
 * Where steps are put on the device: one behind the other what is uploaded for a step, in one piece; for as many tokens and
 * sequences always at the same addresses, so that a captured step can be replayed on new contents. The rows of the block
 * tables are written one by one, when they change.
 */
export class StepInputs {
  /** i32: ids, positions, slots, queryStarts and contextLengths. */
  readonly #packed: Tensor;
  readonly #blockTables: Tensor;

  constructor(device: Device, { tokens, sequences, blocksPerSequence }: StepLimits) {
    this.#packed = device.tensor('i32', [startsOf(tokens, sequences).at(-1)!]);
    this.#blockTables = device.tensor('i32', [sequences, blocksPerSequence]);
  }

  /** The step of so many tokens and sequences. */
  view(tokens: number, sequences: number): Step {
    const starts = startsOf(tokens, sequences);
    const part = (index: number, length: number) => this.#packed.narrow(0, starts[index]!, length);
    return {
      ids: part(0, tokens),
      positions: part(1, tokens),
      slots: part(2, tokens),
      queryStarts: part(3, sequences + 1),
      contextLengths: part(4, sequences),
      blockTables: this.#blockTables.narrow(0, 0, sequences),
    };
  }

  upload(stream: Stream, { ids, positions, slots, queryStarts, contextLengths }: HostStep): Step {
    const starts = startsOf(ids.length, contextLengths.length);
    const packed = new Int32Array(starts.at(-1)!);
    for (const [i, values] of [ids, positions, slots, queryStarts, contextLengths].entries())
      packed.set(values, starts[i]);
    stream.upload(this.#packed.narrow(0, 0, packed.length), packed);
    return this.view(ids.length, contextLengths.length);
  }

  /** Writes some blocks of the step's sequence `row`, from its block `first` on. */
  uploadBlocks(stream: Stream, row: number, first: number, blocks: Int32Array): void {
    stream.upload(this.#blockTables.narrow(0, row, 1).narrow(1, first, blocks.length), blocks);
  }

  async dispose(): Promise<void> {
    await Promise.all([this.#packed, this.#blockTables].map((tensor) => tensor.storage.dispose()));
  }
}

/** Where ids, positions, slots, queryStarts and contextLengths begin, and where the last ends, at multiples of 16 bytes. */
function startsOf(tokens: number, sequences: number): number[] {
  const starts = [0];
  for (const length of [tokens, tokens, tokens, sequences + 1, sequences])
    starts.push(starts.at(-1)! + 4 * Math.ceil(length / 4));
  return starts;
}
