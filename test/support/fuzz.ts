import assert from 'node:assert/strict';
import { nativeAddon, type OperationField } from '../../lib/native/addon.js';
import { Qwen2Error } from '../../lib/native/errors.js';
import type { OpArguments, OpName } from '../../lib/native/ops.js';
import { type DType, dtypeIndex, layoutIndex, Tensor } from '../../lib/native/tensor.js';
import type { OpBench } from './opBench.js';
import type { Random } from './random.js';

/** Numbers of a tensor in an argument record (csrc/addon/marshal.h). */
const tensorNumbers = 14;

const numbers = [
  ...[0, 1, 2, 3, 4, 7, 16, 63, 64, 65, 256, 4096, 2 ** 20],
  ...[-1, -2, -16, 0.5, 1e-40, 1e300, Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY],
  ...[2 ** 31 - 1, 2 ** 31, -(2 ** 31), 2 ** 32, 2 ** 53 - 1, 2 ** 53, 2 ** 60, 2 ** 63, 2 ** 64],
];

/** Integers to stand in device memory. */
const integers = [0, 1, 2, 3, 5, 16, 100, -1, -2, 2 ** 31 - 1, -(2 ** 31)];

function recordOf(
  fields: readonly OperationField[],
  args: Record<string, Tensor | number | DType | undefined>,
): number[] {
  return fields.flatMap(({ name }) => {
    const value = args[name];
    if (typeof value === 'number') return [value];
    if (typeof value === 'string') return [dtypeIndex[value]];
    if (value === undefined) return new Array<number>(tensorNumbers).fill(0);
    const { storage, byteOffset, dtype, layout, shape, strides, group } = value;
    const four = (list: readonly number[]) => Array.from({ length: 4 }, (_, i) => list[i] ?? 0);
    const head = [storage.id, byteOffset, dtypeIndex[dtype], layoutIndex[layout], shape.length];
    return [...head, ...four(shape), ...four(strides), group];
  });
}

/** Another record: a few of its numbers replaced, moved by one, or taken from elsewhere in it; now and then cut short. */
function mutated(record: readonly number[], random: Random): number[] {
  const changed = [...record];
  for (let changes = random.integer(1, 3); changes > 0; changes--) {
    const at = random.integer(0, record.length - 1);
    const mutations = [
      () => random.pick(numbers),
      () => record[at]! + random.pick([-1, 1]),
      () => record[at]! * random.pick([2, 0.5]),
      () => random.pick(record),
      () => record[(at + tensorNumbers) % record.length]!,
    ];
    changed[at] = random.pick(mutations)();
  }
  return random.next() < 0.02 ? changed.slice(0, random.integer(0, changed.length)) : changed;
}

/** How many calls were refused, failed on the stream, and ran. */
export interface FuzzOutcome {
  refused: number;
  failed: number;
  ran: number;
}

/**
 * Enqueues an operation with wrong numbers in its argument record and in its i32 tensors, many times. Each call must run
 * or be refused with a Qwen2Error that names the caller's mistake; nothing is an internal error, and nothing crashes.
 */
export async function fuzz<Name extends OpName>(
  bench: OpBench,
  op: Name,
  valid: (bench: OpBench) => OpArguments[Name],
  random: Random,
  calls: number,
): Promise<FuzzOutcome> {
  const index = nativeAddon()
    .operations()
    .findIndex(({ name }) => name === op);
  const { fields } = nativeAddon().operations()[index]!;
  const args = valid(bench) as Record<string, Tensor | number | DType | undefined>;
  const record = recordOf(fields, args);
  const indices = await integersOf(bench, args);
  const outcome = { refused: 0, failed: 0, ran: 0 };
  for (let i = 0; i < calls; i++) {
    for (const { tensor, values } of indices) bench.stream.upload(tensor, scribbled(values, random));
    const numbers = Float64Array.from(mutated(record, random));
    try {
      nativeAddon().enqueue(bench.stream.id, index, numbers, numbers.length);
    } catch (error) {
      requireCallersMistake(error);
      outcome.refused++;
      continue;
    }
    try {
      await bench.stream.synchronized();
      outcome.ran++;
    } catch (error) {
      requireCallersMistake(error);
      outcome.failed++;
    }
  }
  return outcome;
}

/** The storages of i32 arguments, with what they hold. */
async function integersOf(bench: OpBench, args: Record<string, Tensor | number | DType | undefined>) {
  const tensors = Object.values(args).filter((value) => value instanceof Tensor && value.dtype === 'i32') as Tensor[];
  return await Promise.all(
    tensors.map(async ({ storage }) => {
      const tensor = new Tensor(storage, 'i32', [storage.bytes / 4]);
      return { tensor, values: await bench.stream.download(tensor, new Int32Array(tensor.size)) };
    }),
  );
}

/** The values, now and then with one of them replaced. */
function scribbled(values: Int32Array, random: Random): Int32Array {
  if (random.next() < 0.8 || values.length === 0) return values;
  return values.with(random.integer(0, values.length - 1), random.pick(integers));
}

function requireCallersMistake(error: unknown): void {
  assert.ok(error instanceof Qwen2Error, String(error));
  assert.ok(['invalid_argument', 'disposed', 'unsupported'].includes(error.code), `${error.code}: ${error.message}`);
}
