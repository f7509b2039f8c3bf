import assert from 'node:assert/strict';
import { availableParallelism } from 'node:os';
import { nativeAddon } from '../../lib/native/addon.js';
import { Device, listDevices, measureDevice, openDevice } from '../../lib/native/device.js';
import { devicesUnderTest, isCuda, reference, requireDevice, withBench } from '../support/opBench.js';
import { failure, hostDevices } from '../support/streamWork.js';

/** Why CUDA can't be used here, or undefined. */
async function cudaReason(): Promise<string | undefined> {
  const [cuda] = await listDevices();
  return cuda!.available ? undefined : cuda!.description;
}

describe('device: names', () => {
  const unknown = ['', 'CPU', 'gpu', 'cpu:0', 'cpu:1', 'reference:0', 'cuda:', 'cuda:x', 'cuda:-1', 'cuda:0:1', ' cpu'];
  for (const name of unknown)
    it(`'${name}' is none`, async () => {
      const refusal = failure(
        'invalid_argument',
        /^There is no device '.*'; use 'auto', 'cuda', 'cuda:1', 'cpu' or 'reference'$/,
      );
      assert.throws(() => Device.open(name), refusal);
      await assert.rejects(openDevice(name), refusal);
    });

  for (const name of ['cuda', 'cuda:0', 'cuda:7'])
    it(`'${name}' says why it can't be used`, async function () {
      if ((await cudaReason()) === undefined) this.skip();
      const refusal = failure('device_unavailable', new RegExp(`^device '${name}' can't be used: .{20,}`));
      await assert.rejects(openDevice(name), refusal);
      assert.throws(() => Device.open(name), refusal);
    });

  it("'auto' is CUDA where it can be used, the CPU otherwise", async () => {
    const device = await openDevice('auto');
    assert.equal(device.name, (await cudaReason()) === undefined ? 'cuda' : 'cpu');
    device.dispose();
  });

  it('are listed, each with what it is or why it cannot be used', async () => {
    const list = await listDevices();
    assert.deepEqual(
      list.map(({ name }) => name.replace(/:\d+$/, '')).filter((name, i, names) => name !== names[i - 1]),
      ['cuda', 'cpu', 'reference'],
    );
    for (const { name, available, description, totalBytes, freeBytes } of list) {
      assert.ok(description.length > 10, description);
      if (available) assert.ok(freeBytes! > 0 && freeBytes! <= totalBytes!);
      else assert.deepEqual([name, totalBytes, freeBytes], ['cuda', undefined, undefined]);
    }
  });
});

describe('device: options', () => {
  for (const threads of [0, -1, 1.5, 1025, Number.NaN, Infinity])
    it(`threads ${threads} is refused`, () =>
      assert.throws(
        () => Device.open('cpu', { threads }),
        failure(
          'invalid_argument',
          /threads must be a whole number from 1 to 1024, it is/,
          new RegExp(String(threads)),
        ),
      ));

  it('an unknown SIMD level is refused', () =>
    assert.throws(
      () => Device.open('cpu', { simd: 'sse' }),
      failure('invalid_argument', /simd must be 'scalar', 'avx2' or 'avx512', it is 'sse'/),
    ));

  for (const simd of ['scalar', 'avx2', 'avx512'])
    it(`${simd}: used where the processor has it, refused where not`, () => {
      if (!nativeAddon().cpuLevels().includes(simd)) {
        const missing = failure('device_unavailable', new RegExp(`this processor has no ${simd}`));
        assert.throws(() => Device.open('cpu', { simd }), missing);
        return;
      }
      const device = Device.open('cpu', { simd, threads: 3 });
      const { variant, threads } = device.describe();
      device.dispose();
      assert.deepEqual({ variant, threads }, { variant: simd, threads: 3 });
    });

  it('without any: the best SIMD level, as many threads as the process may run on', () => {
    const device = Device.open('cpu');
    const { variant, threads } = device.describe();
    device.dispose();
    assert.equal(variant, nativeAddon().cpuLevels()[0]);
    assert.equal(threads, availableParallelism());
  });
});

describe('device: description', () => {
  for (const device of hostDevices)
    it(`${device.title} says what it is`, () => {
      const opened = Device.open(device.name, { threads: device.threads });
      const { description, variant, threads, totalBytes, freeBytes, allocatedBytes } = opened.describe();
      opened.dispose();
      assert.match(description, device.name === 'cpu' ? /\w+.*, 2 threads$/ : /^plain scalar kernels, 1 thread$/);
      assert.ok(device.name === 'reference' ? variant === 'reference' : nativeAddon().cpuLevels().includes(variant));
      assert.equal(threads, device.threads ?? 1);
      assert.ok(totalBytes >= 2 ** 30 && Number.isInteger(totalBytes), `${totalBytes}`);
      assert.ok(freeBytes > 0 && freeBytes <= totalBytes, `${freeBytes}`);
      assert.equal(allocatedBytes, 0);
    });

  it('packed weights and KV blocks hold their elements', () => {
    for (const { name } of hostDevices) {
      const device = Device.open(name);
      for (const [rows, columns] of [
        [1, 1],
        [64, 896],
        [100, 37],
      ] as const) {
        const bytes = device.packedBytes(rows, columns);
        assert.ok(bytes >= 2 * rows * columns && bytes <= 2 * (rows + 63) * (columns + 1), `${name}: ${bytes}`);
      }
      assert.equal(device.kvBlockBytes('bf16', 2, 64, 16), 2 * 2 * 64 * 16 * 2, name);
      device.dispose();
    }
  });
});

describe('device: limits', () => {
  it('are measured on the CPU', async () => {
    const { readBytesPerSecond, bf16OperationsPerSecond, int8OperationsPerSecond } = await measureDevice('cpu', {
      threads: 2,
    });
    // From a slow virtual machine under sanitizers to a large server.
    assert.ok(readBytesPerSecond > 5e7 && readBytesPerSecond < 2e12, `${readBytesPerSecond} bytes/s`);
    assert.ok(bf16OperationsPerSecond > 5e7 && bf16OperationsPerSecond < 1e15, `${bf16OperationsPerSecond} 1/s`);
    assert.ok(int8OperationsPerSecond > 5e7 && int8OperationsPerSecond < 2e15, `${int8OperationsPerSecond} 1/s`);
  });

  it('of `reference` are none', () =>
    assert.rejects(measureDevice('reference'), failure('unsupported', /the reference device is a specification/)));
});

describe('device: captured steps', () => {
  const rows = [1, 2, 3, 5, 8, 9, 16, 17, 255];
  for (const device of new Set([reference, ...devicesUnderTest]))
    it(`are padded to few sizes on a GPU and not on a host: ${device.title}`, function () {
      requireDevice(this, device);
      return withBench(device, async (bench) => {
        const padded = isCuda(device) ? [1, 2, 4, 8, 8, 16, 16, 24, 256] : rows;
        assert.deepEqual(
          rows.map((count) => bench.device.paddedRows(count)),
          padded,
        );
      });
    });
});
