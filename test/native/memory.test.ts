import assert from 'node:assert/strict';
import { nativeAddon } from '../../lib/native/addon.js';
import { Device } from '../../lib/native/device.js';
import { dtypeBytes } from '../../lib/native/tensor.js';
import { assertSameBits } from '../support/compare.js';
import { withBench } from '../support/opBench.js';
import { bitsOf, failure, hostDevices, occupy, reversed, smallGather } from '../support/streamWork.js';

for (const device of hostDevices)
  describe(`memory: ${device.title}`, () => {
    it('is counted from allocate() until dispose() resolves', async () => {
      const opened = Device.open(device.name);
      const sizes = [0, 1, 4095, 4096, 4097, (2 << 20) - 1, 2 << 20, 5_000_001];
      const storages = sizes.map((bytes) => opened.allocate(bytes));
      assert.deepEqual(
        storages.map(({ bytes }) => bytes),
        sizes,
      );
      let allocated = sizes.reduce((sum, bytes) => sum + bytes, 0);
      assert.equal(opened.describe().allocatedBytes, allocated);
      for (const storage of storages) {
        await storage.dispose();
        allocated -= storage.bytes;
        assert.equal(opened.describe().allocatedBytes, allocated);
      }
      opened.dispose();
    });

    it('has the size of its tensor', () =>
      withBench(device, async ({ device: opened }) => {
        for (const dtype of ['f32', 'f16', 'bf16', 'i32', 'u8'] as const) {
          const tensor = opened.tensor(dtype, [3, 5, 7]);
          assert.equal(tensor.storage.bytes, 105 * dtypeBytes[dtype]);
          assert.equal(tensor.byteLength, 105 * dtypeBytes[dtype]);
          await tensor.storage.dispose();
        }
        const weight = opened.weight('linearWeight', 10, 6);
        assert.equal(weight.storage.bytes, opened.packedBytes(10, 6));
        assert.ok(weight.storage.bytes >= 120);
        await weight.storage.dispose();
      }));

    it('starts poisoned in tests: NaN in every float, to the last byte', () =>
      withBench(device, async (bench) => {
        for (const size of [1, 3, 4097, (2 << 20) + 5]) {
          const tensor = bench.empty('u8', [size]);
          assert.ok(
            (await bitsOf(bench.stream, tensor)).every((byte) => byte === 0xff),
            `${size} bytes`,
          );
        }
      }));

    it('lives as long as queued work needs it', () =>
      withBench(device, async (bench) => {
        const { out, rows } = smallGather(bench);
        const x = bench.device.tensor('bf16', [4, 3]);
        const target = bench.device.tensor('i32', [1 << 20]);
        const { allocatedBytes } = bench.device.describe();
        const source = bench.from('bf16', [4, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
        occupy(bench, 3);
        bench.run('gather_rows', { x: source, rows: bench.from('i32', [4], [0, 1, 2, 3]), out: x });
        bench.run('gather_rows', { x, rows, out });
        bench.stream.upload(target, new Int32Array(1 << 20).fill(5));
        const download = bench.stream.download(target, new Int32Array(1 << 20));
        await Promise.all([x.storage.dispose(), target.storage.dispose()]);
        assert.ok((await download).every((value) => value === 5));
        assertSameBits(await bench.read(out), reversed);
        const { allocatedBytes: now } = bench.device.describe();
        // `occupy`, `source` and the rows came after the first count.
        assert.equal(now, allocatedBytes + (1 << 24) + 24 + 16 - x.byteLength - target.byteLength);
      }));

    it('of a download is free when the download has resolved', () =>
      withBench(device, async (bench) => {
        for (let i = 0; i < 200; i++) {
          const tensor = bench.device.tensor('u8', [64]);
          await bench.stream.download(tensor, new Uint8Array(64));
          await tensor.storage.dispose();
          assert.equal(bench.device.describe().allocatedBytes, 0);
        }
      }));

    it('disposed twice is disposed once', () =>
      withBench(device, async ({ device: opened }) => {
        const storage = opened.allocate(100);
        const other = opened.allocate(10);
        await Promise.all([storage.dispose(), storage.dispose()]);
        await storage.dispose();
        assert.equal(opened.describe().allocatedBytes, 10);
        await other.dispose();
      }));

    it('outlives its device object', async () => {
      const opened = Device.open(device.name);
      const stream = opened.createStream();
      const tensor = opened.tensor('i32', [2]);
      opened.dispose();
      stream.upload(tensor, Int32Array.of(3, 4));
      assert.deepEqual(await stream.download(tensor, new Int32Array(2)), Int32Array.of(3, 4));
      stream.dispose();
      await tensor.storage.dispose();
    });

    describe('too large', () => {
      for (const bytes of [2 ** 46, 2 ** 50, Number.MAX_SAFE_INTEGER])
        it(`${bytes} bytes: out_of_memory, with what was asked for and what is free`, () =>
          withBench(device, async ({ device: opened, stream }) => {
            const asked = (bytes / 1e9).toFixed(2).replace('.', '\\.');
            assert.throws(
              () => opened.allocate(bytes),
              failure(
                'out_of_memory',
                new RegExp(`^${asked} GB of memory were asked for and \\d+\\.\\d\\d GB are free; `),
              ),
            );
            assert.equal(opened.describe().allocatedBytes, 0);
            const small = opened.tensor('u8', [1]);
            stream.upload(small, Uint8Array.of(1));
            await stream.synchronized();
            await small.storage.dispose();
          }));

      for (const bytes of [-1, 0.5, Number.NaN, Infinity, 2 ** 54])
        it(`${bytes} bytes: invalid_argument`, () =>
          withBench(device, async ({ device: opened }) => {
            assert.throws(
              () => opened.allocate(bytes),
              failure('invalid_argument', /a size or offset must be a whole number from 0 to 2\^53, found/),
            );
          }));
    });

    it('is not reached beyond its end', () =>
      withBench(device, async ({ device: opened, stream }) => {
        const native = nativeAddon();
        const storage = opened.allocate(10);
        const id = native.createStream(native.openDevice('reference', 0, ''));
        const outside = failure('invalid_argument', /bytes at offset \d+ are not within the storage's 10 bytes/);
        for (const [offset, size] of [
          [0, 11],
          [10, 1],
          [11, 0],
          [2 ** 53, 1],
        ] as const) {
          assert.throws(() => native.upload(id, storage.id, offset, new Uint8Array(size)), outside);
          assert.throws(() => native.download(id, storage.id, offset, new Uint8Array(size)), outside);
          assert.throws(() => native.readFile(id, 0, 0, size, storage.id, offset), outside);
        }
        native.destroyStream(id);
        await storage.dispose();
        await stream.synchronized();
      }));
  });
