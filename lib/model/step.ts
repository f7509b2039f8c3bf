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
 * Where steps are put on the device: at the same addresses every time, so that a captured step can be replayed on new
 * contents. The rows of the block tables are written one by one, when they change.
 */
export class StepInputs {
  readonly #all: Step;
  /** i32[sequences]: the tokens that a step chooses. */
  readonly chosen: Tensor;

  constructor(device: Device, { tokens, sequences, blocksPerSequence }: StepLimits) {
    const i32 = (...shape: number[]) => device.tensor('i32', shape);
    this.#all = {
      ids: i32(tokens),
      positions: i32(tokens),
      slots: i32(tokens),
      queryStarts: i32(sequences + 1),
      contextLengths: i32(sequences),
      blockTables: i32(sequences, blocksPerSequence),
    };
    this.chosen = i32(sequences);
  }

  /** The step of so many tokens and sequences. */
  view(tokens: number, sequences: number): Step {
    const { ids, positions, slots, queryStarts, contextLengths, blockTables } = this.#all;
    return {
      ids: ids.narrow(0, 0, tokens),
      positions: positions.narrow(0, 0, tokens),
      slots: slots.narrow(0, 0, tokens),
      queryStarts: queryStarts.narrow(0, 0, sequences + 1),
      contextLengths: contextLengths.narrow(0, 0, sequences),
      blockTables: blockTables.narrow(0, 0, sequences),
    };
  }

  upload(stream: Stream, host: HostStep): Step {
    const step = this.view(host.ids.length, host.contextLengths.length);
    stream.upload(step.ids, host.ids);
    stream.upload(step.positions, host.positions);
    stream.upload(step.slots, host.slots);
    stream.upload(step.queryStarts, host.queryStarts);
    stream.upload(step.contextLengths, host.contextLengths);
    return step;
  }

  /** Writes some blocks of the step's sequence `row`, from its block `first` on. */
  uploadBlocks(stream: Stream, row: number, first: number, blocks: Int32Array): void {
    stream.upload(this.#all.blockTables.narrow(0, row, 1).narrow(1, first, blocks.length), blocks);
  }

  async dispose(): Promise<void> {
    const tensors: Tensor[] = [...Object.values(this.#all), this.chosen];
    await Promise.all(tensors.map((tensor) => tensor.storage.dispose()));
  }
}
