import assert from 'node:assert/strict';
import type { Context } from 'mocha';
import { nativeAddon } from '../../lib/native/addon.js';
import { bf16Weight, Device, type WeightType } from '../../lib/native/device.js';
import type { Qwen2Error } from '../../lib/native/errors.js';
import type { OpArguments, OpName } from '../../lib/native/ops.js';
import type { Stream } from '../../lib/native/stream.js';
import { type DType, dtypeBytes, type Layout, Tensor } from '../../lib/native/tensor.js';
import { fromBf16, toBf16 } from './bf16.js';

/** A device to test an operation on. */
export interface DeviceCase {
  title: string;
  name: string;
  simd?: string;
  threads?: number;
}

export const cudaEmulated: DeviceCase = { title: 'cuda emulated', name: 'cuda-emulated' };

const everyDevice: readonly DeviceCase[] = [
  { title: 'cpu scalar', name: 'cpu', simd: 'scalar', threads: 2 },
  { title: 'cpu avx2', name: 'cpu', simd: 'avx2', threads: 2 },
  { title: 'cpu avx512', name: 'cpu', simd: 'avx512', threads: 2 },
  { title: 'cpu avx512, 1 thread', name: 'cpu', simd: 'avx512', threads: 1 },
  { title: 'cpu avx512, 5 threads', name: 'cpu', simd: 'avx512', threads: 5 },
  // The CUDA kernels on the CPU: slow, and as adversarial as csrc/emulation/options.h says.
  cudaEmulated,
];

/**
 * Every device and SIMD level that is held against `reference`; with QWEN2_TEST_DEVICES=cuda, or a list of names, those.
 */
export const devicesUnderTest: readonly DeviceCase[] =
  process.env.QWEN2_TEST_DEVICES?.split(',').flatMap((name) => {
    const known = everyDevice.filter((device) => device.name === name);
    return known.length > 0 ? known : [{ title: name, name }];
  }) ?? everyDevice;

/** Whether a device runs the CUDA kernels, on a GPU or emulated. */
export const isCuda = ({ name }: DeviceCase): boolean => name.startsWith('cuda');

/** The dtypes of activations that a device computes on. */
export const activationsOf = (device: DeviceCase): readonly ('bf16' | 'f32')[] =>
  device.name === 'reference' ? ['bf16', 'f32'] : ['bf16'];

/** Skips the test, visibly, where the processor lacks the SIMD level or the emulation was not built. */
export function requireDevice(test: Context, device: DeviceCase): void {
  if (device.simd !== undefined && !nativeAddon().cpuLevels().includes(device.simd)) test.skip();
  if (device.name === emulated && !emulationIsBuilt()) test.skip();
}

const emulated = 'cuda-emulated';

function emulationIsBuilt(): boolean {
  try {
    Device.open(emulated).dispose();
    return true;
  } catch (error) {
    if ((error as Qwen2Error).code === 'device_unavailable') return false;
    throw error;
  }
}

/** Values of a tensor to upload, in row-major order: numbers, or for a 16-bit float its bits as a Uint16Array. */
export type Values = ArrayLike<number>;

/** A device with a stream, for running single operations on given values. Free it with `dispose`. */
export class OpBench {
  readonly device: Device;
  readonly stream: Stream;
  readonly #tensors: Tensor[] = [];

  constructor({ name, simd, threads }: DeviceCase = { title: 'reference', name: 'reference' }) {
    this.device = Device.open(name, { simd, threads });
    this.stream = this.device.createStream();
  }

  /** A tensor of poisoned memory. `rowStride` leaves a gap (of poison) between rows. */
  empty(dtype: DType, shape: readonly number[], rowStride?: number): Tensor {
    const rowSize = shape.slice(1).reduce((product, n) => product * n, 1);
    const stride = rowStride ?? rowSize;
    const storage = this.device.allocate((shape[0] ?? 1) * stride * dtypeBytes[dtype]);
    const inner = new Tensor(storage, dtype, shape).strides.slice(1);
    const tensor = new Tensor(storage, dtype, shape, shape.length > 0 ? { strides: [stride, ...inner] } : {});
    this.#tensors.push(tensor);
    return tensor;
  }

  /** A tensor of the given values, rounded to its dtype. */
  from(dtype: DType, shape: readonly number[], values: Values, rowStride?: number): Tensor {
    const tensor = this.empty(dtype, shape, rowStride);
    const rows = shape[0] ?? 1;
    const rowSize = rows === 0 ? 0 : tensor.size / rows;
    const encoded = encode(dtype, values);
    if (tensor.isContiguous) this.stream.upload(tensor, encoded);
    else
      for (let i = 0; i < rows; i++)
        this.stream.upload(tensor.narrow(0, i, 1), encoded.subarray(i * rowSize, (i + 1) * rowSize));
    return tensor;
  }

  /** Asserts that the gaps between the rows of a tensor, and what lies beside it, are poison as they were. */
  async requireGapsUntouched(tensor: Tensor, what = 'tensor'): Promise<void> {
    const { storage, shape, strides, byteOffset } = tensor;
    const all = await this.stream.download(new Tensor(storage, 'u8', [storage.bytes]), new Uint8Array(storage.bytes));
    const size = dtypeBytes[tensor.dtype];
    const rowBytes = shape.slice(1).reduce((product, n) => product * n, size);
    for (let row = 0; row < shape[0]!; row++) {
      const at = byteOffset + row * strides[0]! * size;
      all.fill(0xff, at, at + rowBytes);
    }
    const touched = all.findIndex((byte) => byte !== 0xff);
    if (touched >= 0) assert.fail(`${what}: byte ${touched}, outside the rows of [${shape}], was written`);
  }

  /** An empty weight [rows, columns] in the device's own layout. */
  weight(layout: Exclude<Layout, 'strided'>, rows: number, columns: number, type: WeightType = bf16Weight): Tensor {
    const tensor = this.device.weight(layout, rows, columns, type);
    this.#tensors.push(tensor);
    return tensor;
  }

  run<Name extends OpName>(name: Name, args: OpArguments[Name]): void {
    this.stream.run(name, args);
  }

  /** The values of a tensor, row-major; rejects with what went wrong on the stream. */
  async read(tensor: Tensor): Promise<Float64Array> {
    const rows = tensor.shape[0] ?? 1;
    const rowSize = rows === 0 ? 0 : tensor.size / rows;
    const values = new Float64Array(tensor.size);
    const parts = tensor.isContiguous ? [tensor] : Array.from({ length: rows }, (_, i) => tensor.narrow(0, i, 1));
    for (const [i, part] of parts.entries()) {
      const raw = await this.stream.download(part, hostArray(tensor.dtype, part.size));
      const decode = tensor.dtype === 'bf16' ? fromBf16 : (x: number) => x;
      for (let j = 0; j < raw.length; j++) values[i * rowSize + j] = decode(raw[j]!);
    }
    await this.stream.synchronized();
    return values;
  }

  async dispose(): Promise<void> {
    this.stream.dispose();
    await Promise.all(this.#tensors.map((tensor) => tensor.storage.dispose()));
    this.device.dispose();
  }
}

/** Runs `body` with a bench that is freed afterwards. */
export async function withBench<T>(device: DeviceCase, body: (bench: OpBench) => Promise<T>): Promise<T> {
  const bench = new OpBench(device);
  try {
    return await body(bench);
  } finally {
    await bench.dispose();
  }
}

export const reference: DeviceCase = { title: 'reference', name: 'reference' };

function hostArray(dtype: DType, size: number) {
  if (dtype === 'f32') return new Float32Array(size);
  if (dtype === 'i32') return new Int32Array(size);
  return dtype === 'u8' ? new Uint8Array(size) : new Uint16Array(size);
}

function encode(dtype: DType, values: Values) {
  if (values instanceof Uint16Array && (dtype === 'bf16' || dtype === 'f16')) return values;
  if (dtype === 'f16') throw new Error('f16 values are given as bits, in a Uint16Array');
  const encoded = hostArray(dtype, values.length);
  for (let i = 0; i < values.length; i++) encoded[i] = dtype === 'bf16' ? toBf16(values[i]!) : values[i]!;
  return encoded;
}
