import assert from 'node:assert/strict';
import type { Graph, Stream } from '../../lib/native/stream.js';
import type { Tensor } from '../../lib/native/tensor.js';
import { assertSameBits } from '../support/compare.js';
import { type OpBench, withBench } from '../support/opBench.js';
import { gaussians } from '../support/philox.js';
import { bitsOf, failedGather, failure, hostDevices, occupy, reversed, smallGather } from '../support/streamWork.js';

const tokens = 5;
const hidden = 96;

/** A chain of operations with inputs that change from step to step: rows to take and a residual to add to. */
function smallStep(bench: OpBench) {
  const tensors = {
    x: bench.from('bf16', [tokens, hidden], gaussians(tokens * hidden, 1)),
    rows: bench.empty('i32', [tokens]),
    normWeight: bench.from('f32', [hidden], gaussians(hidden, 2)),
    up: bench.weight('swigluWeight', 2 * hidden, hidden),
    down: bench.weight('linearWeight', hidden, hidden),
    taken: bench.empty('bf16', [tokens, hidden]),
    residual: bench.from('bf16', [tokens, hidden], gaussians(tokens * hidden, 3)),
    normed: bench.empty('bf16', [tokens, hidden]),
    inner: bench.empty('bf16', [tokens, hidden]),
    out: bench.empty('f32', [tokens, hidden]),
  };
  for (const [seed, out] of [tensors.up, tensors.down].entries())
    bench.run('fill_random', { out, seed, mean: 0, std: 0.2 });
  const forward = (stream: Stream) => {
    const { x, rows, normWeight, up, down, taken, residual, normed, inner, out } = tensors;
    stream.run('gather_rows', { x, rows, out: taken });
    stream.run('add_rms_norm', { x: taken, residual, weight: normWeight, out: normed, eps: 1e-6 });
    stream.run('swiglu', { x: normed, weight: up, out: inner, batch_invariant: 0 });
    stream.run('linear', { x: inner, weight: down, out, batch_invariant: 0 });
  };
  return { ...tensors, forward };
}

/** The outputs and the residual after each of several steps, run by `step`. */
async function results(bench: OpBench, run: (forward: (stream: Stream) => void) => void): Promise<Uint8Array[]> {
  const step = smallStep(bench);
  const found: Uint8Array[] = [];
  for (let i = 0; i < 4; i++) {
    const rows = Array.from({ length: tokens }, (_, row) => (2 * row + i) % tokens);
    bench.stream.upload(step.rows, Int32Array.from(rows));
    run(step.forward);
    found.push(await bitsOf(bench.stream, step.out), await bitsOf(bench.stream, step.residual));
  }
  return found;
}

const poisoned = async (bench: OpBench, tensor: Tensor) =>
  (await bitsOf(bench.stream, tensor)).every((byte) => byte === 0xff);

for (const device of hostDevices)
  describe(`graph: ${device.title}`, () => {
    it('gives the bits of eager work, with the inputs of each launch', () =>
      withBench(device, async (bench) => {
        const eager = await results(bench, (forward) => forward(bench.stream));
        let graph: Graph | undefined;
        const replayed = await results(bench, (forward) => {
          graph ??= bench.stream.capture(() => forward(bench.stream));
          bench.stream.launch(graph);
        });
        graph?.dispose();
        for (const [i, bits] of replayed.entries()) assertSameBits(bits, eager[i]!, `result ${i}`);
        assert.notDeepEqual(eager[0], eager[2], 'the inputs matter');
      }));

    it('records without running', () =>
      withBench(device, async (bench) => {
        const gather = smallGather(bench);
        const graph = bench.stream.capture(() => bench.run('gather_rows', gather));
        assert.ok(await poisoned(bench, gather.out));
        bench.stream.launch(graph);
        assertSameBits(await bench.read(gather.out), reversed);
        graph.dispose();
      }));

    it('may be launched many times, by any stream of the device, and while it is disposed', () =>
      withBench(device, async (bench) => {
        const second = bench.device.createStream();
        const { x, rows, out } = smallGather(bench, [1, 2, 3, 0]);
        const graph = bench.stream.capture(() => {
          bench.run('gather_rows', { x, rows, out });
          bench.run('gather_rows', { x: out, rows, out: x });
        });
        second.wait(bench.stream.record());
        for (let i = 0; i < 5; i++) second.launch(graph);
        graph.dispose();
        await second.synchronized();
        second.dispose();
        assertSameBits(await bench.read(x), [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5]);
      }));

    it('may be empty', () =>
      withBench(device, async (bench) => {
        const graph = bench.stream.capture(() => {});
        bench.stream.launch(graph);
        await bench.stream.synchronized();
        graph.dispose();
      }));

    it('is refused by another device', () =>
      withBench(device, (bench) =>
        withBench(device, async (other) => {
          const graph = bench.stream.capture(() => {});
          assert.throws(
            () => other.stream.launch(graph),
            failure('invalid_argument', /the graph was captured on another device/),
          );
          graph.dispose();
        }),
      ));

    it('names the operation that failed in a replay, and skips the rest', () =>
      withBench(device, async (bench) => {
        const gather = smallGather(bench);
        const one = { ...gather, rows: bench.from('i32', [1], [17]), out: bench.empty('bf16', [1, 3]) };
        const graph = bench.stream.capture(() => {
          bench.run('gather_rows', one);
          bench.run('gather_rows', gather);
        });
        bench.stream.launch(graph);
        await assert.rejects(bench.stream.synchronized(), failedGather(17));
        assert.ok(await poisoned(bench, gather.out));
        bench.stream.upload(one.rows, Int32Array.of(2));
        bench.stream.launch(graph);
        assertSameBits(await bench.read(gather.out), reversed);
        graph.dispose();
      }));

    it('keeps its memory until it is disposed', () =>
      withBench(device, async (bench) => {
        const allocated = () => bench.device.describe().allocatedBytes;
        const gather = smallGather(bench);
        const before = allocated();
        const between = bench.device.tensor('bf16', [4, 3]);
        const graph = bench.stream.capture(() => {
          bench.run('gather_rows', { ...gather, out: between });
          bench.run('gather_rows', { ...gather, x: between });
        });
        await Promise.all([between.storage.dispose(), gather.x.storage.dispose()]);
        assert.equal(allocated(), before + 24);
        bench.stream.launch(graph);
        assertSameBits(await bench.read(gather.out), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        graph.dispose();
        assert.equal(allocated(), before - 24);
      }));

    describe('a capture', () => {
      const refused: { what: RegExp; call: (bench: OpBench, x: Tensor, graph: Graph) => unknown }[] = [
        { what: /an upload/, call: ({ stream }, x) => stream.upload(x, new Uint16Array(12)) },
        { what: /a download/, call: ({ stream }, x) => stream.download(x, new Uint16Array(12)) },
        { what: /synchronize\(\)/, call: ({ stream }) => stream.synchronized() },
        { what: /an event/, call: ({ stream }) => stream.record() },
        {
          what: /an event/,
          call: ({ stream, device }) => {
            const other = device.createStream();
            const event = other.record();
            other.dispose();
            stream.wait(event);
          },
        },
        { what: /the launch of a graph/, call: ({ stream }, _, graph) => stream.launch(graph) },
        { what: /another capture/, call: ({ stream }) => stream.capture(() => {}) },
        { what: /measure\(\)/, call: ({ stream }) => stream.measure() },
      ];
      for (const { what, call } of refused)
        it(`refuses ${call.toString().replace(/\s+/g, ' ').slice(0, 60)}`, () =>
          withBench(device, async (bench) => {
            const gather = smallGather(bench);
            await bench.stream.synchronized();
            const empty = bench.stream.capture(() => {});
            const refusal = failure('invalid_argument', /a capture records operations only/, what);
            const refusals: Promise<unknown>[] = [];
            const graph = bench.stream.capture(() => {
              refusals.push(assert.rejects(async () => call(bench, gather.x, empty), refusal));
              bench.run('gather_rows', gather);
            });
            await Promise.all(refusals);
            bench.stream.launch(graph);
            assertSameBits(await bench.read(gather.out), reversed);
            graph.dispose();
            empty.dispose();
          }));

      it('that throws is over: nothing is kept, and the stream works on', () =>
        withBench(device, async (bench) => {
          const gather = smallGather(bench);
          const before = bench.device.describe().allocatedBytes;
          const thrown = new Error('in the middle');
          assert.throws(
            () =>
              bench.stream.capture(() => {
                bench.run('gather_rows', { ...gather, out: bench.device.tensor('bf16', [4, 3]) });
                throw thrown;
              }),
            thrown,
          );
          assert.equal(bench.device.describe().allocatedBytes, before + 24, 'the tensor that nobody disposed');
          bench.run('gather_rows', gather);
          assertSameBits(await bench.read(gather.out), reversed);
        }));

      it('refuses what breaks a contract, as eager work does', () =>
        withBench(device, async (bench) => {
          const gather = { ...smallGather(bench), out: bench.empty('bf16', [3, 3]) };
          assert.throws(
            () => bench.stream.capture(() => bench.run('gather_rows', gather)),
            failure('invalid_argument', /gather_rows: out must be \[B=4, H=3\]/),
          );
          await bench.stream.synchronized();
        }));

      it('leaves queued work alone', () =>
        withBench(device, async (bench) => {
          const gather = smallGather(bench);
          occupy(bench, 3);
          bench.run('gather_rows', gather);
          const synchronized = bench.stream.synchronized();
          const graph = bench.stream.capture(() =>
            bench.run('gather_rows', { ...gather, x: gather.out, out: gather.x }),
          );
          await synchronized;
          assertSameBits(await bench.read(gather.out), reversed);
          graph.dispose();
        }));
    });
  });
