import assert from 'node:assert/strict';
import { setTimeout } from 'node:timers/promises';
import type { Stream } from '../../lib/native/stream.js';
import { assertSameBits } from '../support/compare.js';
import { type DeviceCase, type OpBench, withBench } from '../support/opBench.js';
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

/** A bench with a second stream on its device. */
const withTwoStreams = (device: DeviceCase, body: (bench: OpBench, second: Stream) => Promise<void>) =>
  withBench(device, async (bench) => {
    const second = bench.device.createStream();
    try {
      await body(bench, second);
    } finally {
      second.dispose();
    }
  });

for (const device of hostDevices)
  describe(`event: ${device.title}`, () => {
    it('holds back the work of another stream', () =>
      withTwoStreams(device, async (bench, second) => {
        const gather = smallGather(bench);
        occupy(bench, 5);
        bench.run('gather_rows', gather);
        second.wait(bench.stream.record());
        const found = await bitsOf(second, gather.out);
        assert.deepEqual(found, await bitsOf(bench.stream, gather.out));
        assertSameBits(await bench.read(gather.out), reversed);
      }));

    it('hands work to and fro, 100 times', () =>
      withTwoStreams(device, async (bench, second) => {
        const { x, rows, out } = smallGather(bench, [1, 2, 3, 0]);
        const streams = [bench.stream, second];
        for (let step = 0; step < 100; step++) {
          const [at, next] = step % 2 === 0 ? streams : streams.toReversed();
          at!.run('gather_rows', step % 2 === 0 ? { x, rows, out } : { x: out, rows, out: x });
          const event = at!.record();
          next!.wait(event);
          event.dispose();
        }
        // 100 rotations of 4 rows: where they began.
        assertSameBits(await bench.read(x), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
      }));

    it('may be waited for more than once, late, and by its own stream', () =>
      withTwoStreams(device, async (bench, second) => {
        const event = bench.stream.record();
        await bench.stream.synchronized();
        for (const stream of [second, second, bench.stream]) stream.wait(event);
        await Promise.all([second.synchronized(), bench.stream.synchronized()]);
      }));

    it('carries the error of its stream', () =>
      withTwoStreams(device, async (bench, second) => {
        const { x } = smallGather(bench);
        fail(bench, 42);
        second.wait(bench.stream.record());
        await assert.rejects(bitsOf(second, x), failedGather(42));
        await assert.rejects(second.synchronized(), failedGather(42));
        await second.synchronized();
        await assert.rejects(bench.stream.synchronized(), failedGather(42));
        await bench.stream.synchronized();
      }));

    it('carries no error that came after it', () =>
      withTwoStreams(device, async (bench, second) => {
        const event = bench.stream.record();
        fail(bench, 42);
        second.wait(event);
        await second.synchronized();
        await assert.rejects(bench.stream.synchronized(), failedGather(42));
      }));

    it('leaves an earlier error of the waiting stream in place', () =>
      withTwoStreams(device, async (bench, second) => {
        fail(bench, 42);
        const event = bench.stream.record();
        await assert.rejects(bench.stream.synchronized(), failedGather(42));
        fail(bench, 43, second);
        second.wait(event);
        await assert.rejects(second.synchronized(), failedGather(43));
      }));

    it('of a stream destroyed before it happened fails whoever waits', () =>
      withTwoStreams(device, async (bench, second) => {
        occupy(bench, 20, second);
        bench.stream.wait(second.record());
        const waiting = bench.stream.synchronized();
        second.dispose();
        await assert.rejects(waiting, failure('disposed', /the stream was destroyed before this work ran/));
        await bench.stream.synchronized();
      }));

    it('does not hold back the end of a stream that waits for it', () =>
      withTwoStreams(device, async (bench, second) => {
        const start = performance.now();
        occupy(bench, 20);
        second.wait(bench.stream.record());
        const waiting = assert.rejects(second.synchronized(), failure('disposed', /destroyed while it waited/));
        await setTimeout(5);
        const before = performance.now();
        second.dispose();
        const dispose = performance.now() - before;
        await waiting;
        await bench.stream.synchronized();
        const work = performance.now() - start;
        assert.ok(dispose < work / 2, `dispose() took ${dispose} ms, the work it need not wait for ${work} ms`);
      }));
  });

describe('event: between devices', () => {
  it('orders and carries errors as within one', () =>
    withBench(hostDevices[0]!, (first) =>
      withBench(hostDevices[1]!, async (second) => {
        const gather = smallGather(first);
        first.run('gather_rows', gather);
        second.stream.wait(first.stream.record());
        await second.stream.synchronized();
        assertSameBits(await first.read(gather.out), reversed);
        fail(first, 5);
        second.stream.wait(first.stream.record());
        await assert.rejects(second.stream.synchronized(), failedGather(5));
        await assert.rejects(first.stream.synchronized(), failedGather(5));
      }),
    ));
});
