import assert from 'node:assert/strict';
import { setImmediate } from 'node:timers/promises';
import { assertSameBits } from '../support/compare.js';
import { OpBench, reference, withBench } from '../support/opBench.js';
import { philox } from '../support/philox.js';
import {
  bitsOf,
  fail,
  failedGather,
  failure,
  hostDevices,
  occupy,
  reversed,
  smallGather,
} from '../support/streamWork.js';

/** A permutation of 0 … size − 1, a function of the seed (Fisher and Yates). */
function permutation(size: number, seed: number): number[] {
  const order = Array.from({ length: size }, (_, i) => i);
  for (let i = size - 1; i > 0; i--) {
    const j = philox([i, 0, 0, 0], [seed, 0])[0] % (i + 1);
    [order[i], order[j]] = [order[j]!, order[i]!];
  }
  return order;
}

for (const device of hostDevices)
  describe(`stream: ${device.title}`, () => {
    it('works in order: permutations of rows, one on another, 200 times', () =>
      withBench(device, async (bench) => {
        const size = 16;
        let expected = permutation(size, 1000);
        const tensors = [bench.from('bf16', [size, 1], expected), bench.empty('bf16', [size, 1])];
        for (let step = 0; step < 200; step++) {
          const order = permutation(size, step);
          const [x, out] = step % 2 === 0 ? tensors : tensors.toReversed();
          bench.run('gather_rows', { x: x!, rows: bench.from('i32', [size], order), out: out! });
          expected = order.map((row) => expected[row]!);
        }
        assertSameBits(await bench.read(tensors[0]!), expected);
      }));

    it('keeps its own order beside another stream of the device', () =>
      withBench(device, async (bench) => {
        const other = bench.device.createStream();
        const outs = [bench.empty('f32', [5000]), bench.empty('f32', [5000])];
        for (let seed = 0; seed < 50; seed++)
          for (const [i, stream] of [bench.stream, other].entries())
            stream.run('fill_random', { out: outs[i]!, seed: 2 * seed + i, mean: i, std: 1 });
        const found = await Promise.all([bitsOf(bench.stream, outs[0]!), bitsOf(other, outs[1]!)]);
        other.dispose();
        for (const [i, bits] of found.entries()) {
          bench.run('fill_random', { out: outs[i]!, seed: 98 + i, mean: i, std: 1 });
          assertSameBits(bits, await bitsOf(bench.stream, outs[i]!), `stream ${i}`);
        }
      }));

    it('copies an upload at the call', () =>
      withBench(device, async (bench) => {
        occupy(bench, 2);
        const to = bench.empty('i32', [3]);
        const from = Int32Array.of(1, 2, 3);
        bench.stream.upload(to, from);
        from.fill(9);
        assert.deepEqual(await bench.stream.download(to, new Int32Array(3)), Int32Array.of(1, 2, 3));
      }));

    it('uploads and downloads parts of larger arrays', () =>
      withBench(device, async (bench) => {
        const to = bench.from('i32', [4], [1, 2, 3, 4]);
        bench.stream.upload(to.narrow(0, 1, 2), Int32Array.of(7, 8, 9, 10).subarray(1, 3));
        const whole = new Int32Array(8).fill(-1);
        const part = whole.subarray(2, 6);
        assert.equal(await bench.stream.download(to, part), part, 'the array that was given');
        assert.deepEqual([...whole], [-1, -1, 1, 8, 9, 4, -1, -1]);
      }));

    it('moves empty tensors', () =>
      withBench(device, async (bench) => {
        const empty = bench.empty('f32', [0, 4]);
        bench.stream.upload(empty, new Float32Array());
        assert.equal((await bench.stream.download(empty, new Float32Array())).length, 0);
        await bench.stream.synchronized();
      }));

    it('refuses arrays of another size and tensors with gaps', () =>
      withBench(device, async (bench) => {
        const tensor = bench.empty('bf16', [2, 3]);
        const gaps = bench.empty('bf16', [2, 3], 5);
        for (const [to, size] of [
          [tensor, 5],
          [tensor, 7],
          [gaps, 6],
        ] as const) {
          const message = new RegExp(`${2 * size} bytes were given for a tensor bf16\\[2,3\\] of 12 contiguous bytes`);
          const refusal = failure('invalid_argument', message);
          assert.throws(() => bench.stream.upload(to, new Uint16Array(size)), refusal);
          await assert.rejects(bench.stream.download(to, new Uint16Array(size)), refusal);
        }
      }));

    it('throws what breaks a contract at the call, and stays clean', () =>
      withBench(device, async (bench) => {
        const { x, rows } = smallGather(bench);
        assert.throws(
          () => bench.run('gather_rows', { x, rows, out: bench.empty('bf16', [4, 2]) }),
          failure(
            'invalid_argument',
            /gather_rows: out must be \[B=4, H=3\]: H is set by x/,
            /got gather_rows\(x bf16\[4, 3\], rows i32\[4\], out bf16\[4, 2\]\)/,
          ),
        );
        await bench.stream.synchronized();
      }));

    it('leaves the event loop free while it works', () =>
      withBench(device, async (bench) => {
        occupy(bench, 10);
        let finished = false;
        const done = bench.stream.synchronized().then(() => {
          finished = true;
        });
        let turns = 0;
        for (; !finished; turns++) await setImmediate();
        await done;
        // About 100 ms of work against microseconds a turn.
        assert.ok(turns > 10, `${turns} turns of the event loop`);
      }));

    describe('errors', () => {
      it('keeps the earliest: it names the call, the work behind it is skipped, and synchronized() clears it', () =>
        withBench(device, async (bench) => {
          const { stream } = bench;
          const { x, rows, out } = smallGather(bench);
          bench.run('gather_rows', { x, rows, out });
          const before = bitsOf(stream, out);
          fail(bench, 99);
          fail(bench, 77);
          stream.upload(out, new Uint16Array(12));
          const behind = [bitsOf(stream, x), bitsOf(stream, out)];
          const synchronized = stream.synchronized();
          const after = bitsOf(stream, out);
          for (const download of behind) await assert.rejects(download, failedGather(99));
          await assert.rejects(synchronized, failedGather(99));
          assert.deepEqual(await after, await before, 'the upload behind the error was skipped');
          await stream.synchronized();
          assertSameBits(await bench.read(out), reversed);
        }));

      it('leaves the target of a rejected download as it was', () =>
        withBench(device, async (bench) => {
          const { x } = smallGather(bench);
          fail(bench, -1);
          const target = new Uint16Array(12).fill(0xabcd);
          await assert.rejects(bench.stream.download(x, target), failedGather(-1));
          assert.ok(target.every((bits) => bits === 0xabcd));
        }));

      it('belongs to one stream only', () =>
        withBench(device, async (bench) => {
          const other = bench.device.createStream();
          fail(bench, 4, other);
          await bench.stream.synchronized();
          await assert.rejects(other.synchronized(), failedGather(4));
          other.dispose();
        }));
    });

    describe('dispose() with work queued', () => {
      it('rejects what waits for it', () =>
        withBench(device, async (bench) => {
          const stream = bench.device.createStream();
          const { x } = smallGather(bench);
          await bench.stream.synchronized();
          occupy(bench, 20, stream);
          const waiting = [bitsOf(stream, x), stream.synchronized(), stream.measure()];
          stream.dispose();
          for (const promise of waiting)
            await assert.rejects(promise, failure('disposed', /the stream was destroyed before this work ran/));
        }));

      it('runs no more than the operation it is at', () =>
        withBench(device, async (bench) => {
          const stream = bench.device.createStream();
          const { x, rows, out } = smallGather(bench);
          await bench.stream.synchronized();
          const graph = stream.capture(() => {
            occupy(bench, 20, stream);
            stream.run('gather_rows', { x, rows, out });
          });
          stream.launch(graph);
          graph.dispose();
          stream.dispose();
          assert.ok(
            (await bitsOf(bench.stream, out)).every((byte) => byte === 0xff),
            'still poison',
          );
        }));
    });
  });

describe('stream: cost', () => {
  // The operations of a decode step of an 80-layer model. Its 72 billion weights at 4 bits take 11 ms to read at the
  // 3.3 TB/s of the fastest memory this is meant for, so enqueueing must take well under that.
  it('enqueues 800 operations in well under a decode step', async () => {
    const bench = new OpBench(reference);
    const x = bench.empty('bf16', [1, 8]);
    const weight = bench.empty('f32', [8]);
    let best = Infinity;
    for (let round = 0; round < 20; round++) {
      const start = performance.now();
      for (let i = 0; i < 800; i++) bench.run('rms_norm', { x, weight, out: x, eps: 1e-6 });
      best = Math.min(best, performance.now() - start);
      await bench.stream.synchronized();
    }
    await bench.dispose();
    console.log(`        800 operations enqueued in ${best.toFixed(2)} ms`);
    const sanitized = process.env.QWEN2_ADDON?.includes('sanitized') ?? false;
    assert.ok(best < (sanitized ? 50 : 5), `${best} ms`);
  });
});
