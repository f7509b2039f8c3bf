import type { Tensor } from '../../lib/native/tensor.js';
import { assertSameBits } from './compare.js';
import { activationsOf, devicesUnderTest, type OpBench, reference, requireDevice, withBench } from './opBench.js';
import type { Activation } from './precision.js';
import { assertPrecise, exactnessOf, type QuantizedProducts, sumErrors } from './quantizedProducts.js';
import { assertRefused, refusalOf } from './vectorLoads.js';

interface QuantizedCase {
  title: string;
  T: number;
  K: number;
  N: number | readonly number[];
  out?: 'f32';
  gap?: number;
}

/** How an operation's cases become calls, and what those give, the bias added. */
interface QuantizedLinear<Case extends QuantizedCase, Call extends { activations: Float32Array }> {
  op: 'linear_int4' | 'linear_int8';
  cases: readonly Case[];
  /** Of a case with nothing special about it. */
  withValues(given: { title: string; T: number; K: number; N: number }): Call;
  prepare(
    bench: OpBench,
    dtype: Activation,
    call: Call,
  ): { x: Tensor; weight: Tensor; bias: Tensor | undefined; out: Tensor };
  expectations(dtype: Activation, given: Case): { call: Call; expected: Float64Array; products: QuantizedProducts };
}

/** Holds every device to the contract that linear_int4 and linear_int8 share. */
export function describeQuantizedLinear<Case extends QuantizedCase, Call extends { activations: Float32Array }>({
  op,
  cases,
  withValues,
  prepare,
  expectations,
}: QuantizedLinear<Case, Call>): void {
  for (const device of [reference, ...devicesUnderTest])
    describe(`${op} on ${device.title}`, () => {
      before(function () {
        requireDevice(this, device);
      });

      for (const dtype of activationsOf(device))
        for (const exact of exactnessOf(device))
          for (const given of cases) {
            const { title, T, K, N, out: outType = dtype } = given;
            it(`${title}: ${dtype}[${T}, ${K}] × [${N}, ${K}]ᵀ to ${outType}, exact ${exact}`, () =>
              withBench(device, async (bench) => {
                const { call, expected, products } = expectations(dtype, given);
                const args = prepare(bench, dtype, call);
                bench.run(op, { ...args, exact, batch_invariant: 0 });
                const refusal = refusalOf(device, given);
                if (refusal) return assertRefused(bench, refusal);
                assertPrecise(await bench.read(args.out), expected, outType, sumErrors(device, products, K, exact));
                await bench.requireGapsUntouched(args.out);
              }));
          }

      for (const exact of exactnessOf(device))
        it(`keeps what is not a number to its row, exact ${exact}`, () =>
          withBench(device, async (bench) => {
            const call = withValues({ title: '', T: 9, K: 96, N: 24 });
            const damaged = { ...call, activations: call.activations.with(3 * 96 + 40, Number.NaN) };
            const [good, bad] = [prepare(bench, 'bf16', call), prepare(bench, 'bf16', damaged)];
            for (const args of [good, bad]) bench.run(op, { ...args, exact, batch_invariant: 0 });
            const expected = await bench.read(good.out);
            assertSameBits(await bench.read(bad.out), expected.fill(Number.NaN, 3 * 24, 4 * 24));
          }));
    });
}
