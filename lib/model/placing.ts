/** What turns tensors of a checkpoint, on the device, into parts of the model's tensors. */
import { type LoadTask, Scratch } from '../checkpoint/loader.js';
import { int4FormatIndex } from '../checkpoint/quantization.js';
import type { TensorEntry } from '../checkpoint/safetensors.js';
import { partsOf, type SourcePart, wholeOf } from '../checkpoint/tensorReader.js';
import type { Stream } from '../native/stream.js';
import type { Tensor } from '../native/tensor.js';
import type { Target, TargetSource } from './plan.js';

/** A target's tensors on the device. */
export interface Destination {
  tensor: Tensor;
  /** i32[columns], where the target has an order. */
  order: Tensor | undefined;
}

/** AWQ's search: ranges are shrunk by up to half, in so many steps, where that rounds a group better. */
const clipSteps = 20;
/** Rows that one 32-bit word of 4-bit weights holds. */
const int4Rows = 8;

/** What loads one source of a target. */
export function loadTasks(
  target: Target,
  source: TargetSource,
  tensors: ReadonlyMap<string, TensorEntry>,
  into: Destination,
  stream: Stream,
): LoadTask[] {
  if (source.matrix !== undefined) return [int4Task(target, source, into, stream)];
  const parts = partsOf(tensors.get(source.name)!, target.type.dtype === 'int4' ? int4Rows : 1);
  return parts.map(
    (part: SourcePart): LoadTask => ({
      parts: [part],
      scratchBytes: placingBytes(target, part.rows),
      place: ([tensor], scratch) => place(target, source, into, part.firstRow, tensor!, scratch, stream),
    }),
  );
}

/** A 4-bit matrix of the checkpoint is packed as a whole: its files have columns where the device has rows. */
function int4Task(target: Target, source: TargetSource, into: Destination, stream: Stream): LoadTask {
  const { qweight, qzeros, scales, format } = source.matrix!;
  return {
    parts: [qweight, qzeros, scales].map(wholeOf),
    place([words, zeros, factors]) {
      const matrix = { qweight: words!, qzeros: zeros!, scales: factors!, columns: into.order };
      packInt4(target, source, into.tensor, source.rowOffset, { ...matrix, format: int4FormatIndex[format] }, stream);
    },
  };
}

/** Bytes of scratch that `place` takes for so many rows. */
export function placingBytes({ type, columns }: Target, rows: number): number {
  if (type.dtype !== 'int4') return 0;
  const groups = columns / type.group;
  return (
    Scratch.bytes('i32', [columns, rows / int4Rows]) +
    Scratch.bytes('i32', [groups, rows / int4Rows]) +
    Scratch.bytes('f16', [groups, rows])
  );
}

/** Enqueues what makes `rows`, those of a source from `firstRow` on, a part of its target. Their dtype is bf16, f16 or f32. */
export function place(
  target: Target,
  source: TargetSource,
  { tensor: weight }: Destination,
  firstRow: number,
  rows: Tensor,
  scratch: Scratch,
  stream: Stream,
): void {
  const { layout, type, columns } = target;
  const [row, count] = [source.rowOffset + firstRow, rows.shape[0]!];
  if (layout === 'vector' || layout === 'table')
    stream.run('convert', { source: rows, out: weight.narrow(0, row, count) });
  else if (type.dtype === 'int4') {
    const groups = columns / type.group;
    const matrix = {
      qweight: scratch.take('i32', [columns, count / int4Rows]),
      qzeros: scratch.take('i32', [groups, count / int4Rows]),
      scales: scratch.take('f16', [groups, count]),
    };
    stream.run('quantize_int4', { source: rows, ...matrix, clip_steps: clipSteps });
    packInt4(target, source, weight, row, { ...matrix, format: int4FormatIndex.awq }, stream);
  } else if (type.dtype === 'int8') stream.run('linear_int8_pack', { source: rows, weight, row_offset: row });
  else if (layout === 'swigluWeight')
    stream.run('swiglu_pack', { source: rows, weight, part: source.gateOrUp!, row_offset: row });
  else stream.run('linear_pack', { source: rows, weight, row_offset: row });
}

function packInt4(
  { layout }: Target,
  { gateOrUp }: TargetSource,
  weight: Tensor,
  row: number,
  matrix: { qweight: Tensor; qzeros: Tensor; scales: Tensor; columns?: Tensor | undefined; format: number },
  stream: Stream,
): void {
  if (layout === 'swigluWeight')
    stream.run('swiglu_int4_pack', { ...matrix, weight, part: gateOrUp!, row_offset: row });
  else stream.run('linear_int4_pack', { ...matrix, weight, row_offset: row });
}
