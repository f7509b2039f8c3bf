import assert from 'node:assert/strict';
import { nativeAddon } from '../../lib/native/addon.js';
import { Qwen2Error } from '../../lib/native/errors.js';
import type { OpArguments, OpName } from '../../lib/native/ops.js';
import { dtypeBytes, Tensor } from '../../lib/native/tensor.js';
import { fuzz } from './fuzz.js';
import { OpBench, reference, withBench } from './opBench.js';
import { Random } from './random.js';

/** Arguments that break a contract, and what must be said about them. */
export interface Violation<Name extends OpName> {
  title: string;
  /** What differs from the valid call. */
  change: (bench: OpBench, valid: OpArguments[Name]) => Partial<OpArguments[Name]>;
  says: RegExp;
}

export interface ContractCase<Name extends OpName> {
  op: Name;
  /** Arguments that the operation takes, in matrices of two rows or more, each in a storage of its own exact size. */
  valid: (bench: OpBench) => OpArguments[Name];
  /** Dimensions, as "field.dimension", that no other argument determines. */
  free?: readonly string[];
  /** Fields that may have any rank and layout. */
  anyShape?: readonly string[];
  violations: readonly Violation<Name>[];
}

const hostDevices = [reference, { title: 'cpu', name: 'cpu', threads: 2 }];

/** Tests that arguments are checked at the call: what holds for every tensor of every operation, and `violations`. */
export function describeContract<Name extends OpName>(contract: ContractCase<Name>): void {
  const { op, valid, violations } = contract;
  for (const device of hostDevices)
    describe(`the contract of ${op} on ${device.title}`, () => {
      it('is kept by the call that the violations start from', () =>
        withBench(device, async (bench) => {
          bench.run(op, valid(bench));
          await bench.stream.synchronized();
        }));

      for (const { title, change, says } of [...violations, ...tensorViolations(contract)])
        it(`refuses ${title}`, () =>
          withBench(device, async (bench) => {
            const args = valid(bench);
            requireViolation(() => bench.run(op, { ...args, ...change(bench, args) }), op, says);
            await bench.stream.synchronized();
          }));

      it('is checked whatever numbers come', async () => {
        const outcome = await withBench(device, (bench) => fuzz(bench, op, valid, new Random(1), 1500));
        assert.ok(outcome.refused > 100 && outcome.ran > 20, `most calls went one way: ${JSON.stringify(outcome)}`);
      });

      for (const field of tensorFields(op))
        it(`refuses ${field} in a storage that was disposed, or that is on another device`, () =>
          withBench(device, async (bench) => {
            const args = valid(bench);
            const other = new OpBench(device === reference ? hostDevices[1] : reference);
            const elsewhere = valid(other);
            const names = `${field} is on ${other.device.name}, the stream is on ${bench.device.name}`;
            requireViolation(() => bench.run(op, { ...args, [field]: at(elsewhere, field) }), op, new RegExp(names));
            await other.dispose();
            await at(args, field)!.storage.dispose();
            assert.throws(() => bench.run(op, args), {
              code: 'disposed',
              message: `${op}: the storage of ${field} was disposed`,
            });
          }));
    });
}

/** Asserts that a call throws a contract error of the operation. */
export function requireViolation(call: () => void, op: OpName, says: RegExp): void {
  assert.throws(call, (error) => {
    assert.ok(error instanceof Qwen2Error, String(error));
    assert.equal(error.code, 'invalid_argument');
    assert.ok(error.message.startsWith(`${op}: `), error.message);
    assert.match(error.message, says);
    return true;
  });
}

const tensorFields = (op: OpName): string[] =>
  nativeAddon()
    .operations()
    .find(({ name }) => name === op)!
    .fields.filter(({ type }) => type === 'tensor')
    .map(({ name }) => name);

const at = (args: object, field: string) => (args as Record<string, Tensor | undefined>)[field];

/** What no operation takes, for each of its tensors. */
function tensorViolations<Name extends OpName>(contract: ContractCase<Name>): Violation<Name>[] {
  const { op, free = [], anyShape = [] } = contract;
  return tensorFields(op).flatMap((field) => {
    const changed = (title: string, says: RegExp, change: (bench: OpBench, valid: Tensor) => Tensor | undefined) => ({
      title: `${field} ${title}`,
      says,
      change: (bench: OpBench, args: OpArguments[Name]) =>
        ({ [field]: change(bench, at(args, field)!) }) as Partial<OpArguments[Name]>,
    });
    const always = [
      changed('missing', new RegExp(`${field} is missing`), () => undefined),
      changed('of the wrong dtype', new RegExp(`${field} must be \\w+`), (bench, { dtype, shape, layout }) => {
        const storage = bench.device.allocate(1 << 16);
        return new Tensor(storage, dtype === 'i32' || dtype === 'u8' ? 'f32' : 'u8', shape, { layout });
      }),
      changed('past the end of its storage', new RegExp(`${field} .* does not fit into its storage`), (_, tensor) => {
        const { storage, dtype, shape, strides, layout, group } = tensor;
        const beforeEnd = layout === 'strided' ? extent(tensor) - dtypeBytes[dtype] : 0;
        return new Tensor(storage, dtype, shape, { byteOffset: storage.bytes - beforeEnd, strides, layout, group });
      }),
    ];
    if (anyShape.includes(field)) return always;
    return [...always, ...shapeViolations(field, free, changed)];
  });
}

/** Bytes from the first to the last element. */
const extent = ({ dtype, shape, strides }: Tensor) =>
  dtypeBytes[dtype] * shape.reduce((last, n, i) => last + (n - 1) * strides[i]!, 1);

function shapeViolations<T>(
  field: string,
  free: readonly string[],
  changed: (title: string, says: RegExp, change: (bench: OpBench, valid: Tensor) => Tensor) => T,
): T[] {
  const like = (
    bench: OpBench,
    { dtype, layout, group }: Tensor,
    shape: readonly number[],
    strides?: readonly number[],
  ) => new Tensor(bench.device.allocate(1 << 16), dtype, shape, { layout, group, ...(strides && { strides }) });
  const notPlain = new RegExp(
    `${field} (must (be \\[|be a weight packed|have contiguous rows)|.* does not fit|is int[48] with groups of 0)`,
  );
  return [
    changed('of another rank', notPlain, (bench, tensor) => like(bench, tensor, [...tensor.shape, 1])),
    changed('with rows of nothing, or a vector strided', notPlain, (bench, tensor) =>
      tensor.shape.length > 1
        ? like(bench, tensor, [tensor.shape[0]!, 0])
        : like(bench, tensor, [Math.max(2, tensor.shape[0]!)], [2]),
    ),
    changed('with rows that overlap, or not as it is packed', notPlain, (bench, tensor) =>
      tensor.layout === 'strided'
        ? like(bench, tensor, [2, ...tensor.shape.slice(1)], tensor.shape.length > 1 ? [tensor.shape[1]! - 1, 1] : [0])
        : new Tensor(bench.device.allocate(1 << 16), tensor.dtype, tensor.shape),
    ),
    ...[0, 1]
      .filter((dimension) => !free.includes(`${field}.${dimension}`))
      .map((dimension) =>
        changed(`one larger in dimension ${dimension}, if it has it`, /must/, (bench, tensor) =>
          like(
            bench,
            tensor,
            dimension < tensor.shape.length ? tensor.shape.with(dimension, tensor.shape[dimension]! + 1) : [],
          ),
        ),
      ),
  ];
}
