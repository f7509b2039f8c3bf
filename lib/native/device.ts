import { type DeviceDescription, type DeviceLimits, nativeAddon } from './addon.js';
import { Qwen2Error } from './errors.js';
import { Storage } from './storage.js';
import { Stream } from './stream.js';
import { type DType, dtypeBytes, dtypeIndex, type Layout, Tensor } from './tensor.js';

export interface DeviceOptions {
  /** CPU threads; default: as many as this process may run on. */
  threads?: number | undefined;
  /** CPU SIMD level: 'scalar', 'avx2' or 'avx512'; default: the best that the processor has. */
  simd?: string | undefined;
}

/** What a packed weight holds. */
export interface WeightType {
  dtype: 'bf16' | 'int4' | 'int8';
  /** Columns that share a scale: 32, 64 or 128; 0 for bf16. */
  group: number;
}

export const bf16Weight: WeightType = { dtype: 'bf16', group: 0 };

/** One line of `listDevices()`. */
export interface DeviceStatus {
  /** What to pass as `device`. */
  name: string;
  available: boolean;
  /** What it is, or why it can't be used. */
  description: string;
  totalBytes?: number;
  freeBytes?: number;
}

/** A device that operations run on: memory, streams, and the sizes of its own layouts. */
export class Device {
  readonly name: string;
  readonly #id: number;
  #closed = false;

  /**
   * Opens a device at once: for one that needs a driver, use `openDevice`.
   *
   * @throws device_unavailable with the reason, invalid_argument for a name that is not a device's.
   */
  static open(name: string, { threads, simd = '' }: DeviceOptions = {}): Device {
    if (!/^(reference|cpu|cuda(:\d+)?|cuda-emulated)$/.test(name))
      throw new Qwen2Error(
        'invalid_argument',
        `There is no device '${name}'; use 'auto', 'cuda', 'cuda:1', 'cpu' or 'reference'`,
      );
    if (threads !== undefined && !(Number.isInteger(threads) && threads >= 1 && threads <= 1024))
      throw new Qwen2Error('invalid_argument', `threads must be a whole number from 1 to 1024, it is ${threads}`);
    return new Device(name, nativeAddon().openDevice(name, threads ?? 0, simd));
  }

  private constructor(name: string, id: number) {
    this.name = name;
    this.#id = id;
  }

  describe(): DeviceDescription {
    return nativeAddon().describeDevice(this.#id);
  }

  /** Memory of `bytes` bytes of undefined content. @throws out_of_memory */
  allocate(bytes: number): Storage {
    return new Storage(nativeAddon().allocate(this.#id, bytes), bytes);
  }

  /** The same, for pieces so large that a GPU's driver takes milliseconds to map them. */
  async allocateInBackground(bytes: number): Promise<Storage> {
    return new Storage(await nativeAddon().allocateInBackground(this.#id, bytes), bytes);
  }

  /** A new tensor in a storage of its own. */
  tensor(dtype: DType, shape: readonly number[]): Tensor {
    return new Tensor(this.allocate(shape.reduce((product, n) => product * n, dtypeBytes[dtype])), dtype, shape);
  }

  /** A new weight [rows, columns] in the device's own layout, to be filled by the pack operation of layout and dtype. */
  weight(layout: Exclude<Layout, 'strided'>, rows: number, columns: number, type: WeightType = bf16Weight): Tensor {
    const storage = this.allocate(this.packedBytes(rows, columns, type));
    return new Tensor(storage, type.dtype, [rows, columns], { layout, group: type.group });
  }

  /** Bytes of a weight [rows, columns] in the device's own layout. */
  packedBytes(rows: number, columns: number, { dtype, group }: WeightType = bf16Weight): number {
    return nativeAddon().packedBytes(this.#id, dtypeIndex[dtype], rows, columns, group);
  }

  /** Bytes that `blockSize` tokens take in the KV cache of one layer. */
  kvBlockBytes(dtype: DType, kvHeads: number, headDim: number, blockSize: number): number {
    return nativeAddon().kvBlockBytes(this.#id, dtypeIndex[dtype], kvHeads, headDim, blockSize);
  }

  /**
   * How many rows a captured step of so many is padded to. A GPU is given few sizes, because a captured step takes time
   * and memory, and its rows run side by side; on a host every row is work, and a captured step is a list.
   */
  paddedRows(rows: number): number {
    if (!this.name.startsWith('cuda')) return rows;
    return rows <= 8 ? 2 ** Math.ceil(Math.log2(rows)) : 8 * Math.ceil(rows / 8);
  }

  /**
   * How many steps are enqueued beside the one that is computed. A GPU would stand still between them; a host computes
   * with the same cores that plan them, and what comes new or is aborted meanwhile need not wait for one step more.
   */
  get stepsAhead(): number {
    return this.name.startsWith('cuda') ? 1 : 0;
  }

  /** Returns the host memory that uploads passed through. */
  trimStaging(): Promise<void> {
    return nativeAddon().trimStaging(this.#id);
  }

  createStream(): Stream {
    return new Stream(nativeAddon().createStream(this.#id));
  }

  /** Lets go of the device; its storages and streams keep it alive until they are disposed. */
  dispose(): void {
    if (this.#closed) return;
    this.#closed = true;
    nativeAddon().closeDevice(this.#id);
  }
}

/**
 * Opens a device, 'auto' being a usable GPU or else the CPU. A driver is started off the JavaScript thread.
 *
 * @throws device_unavailable with the reason, invalid_argument for a name that is not a device's.
 */
export async function openDevice(name: string, options: DeviceOptions = {}): Promise<Device> {
  if (name === 'auto') return Device.open(await defaultDevice(), options);
  if (isCuda(name)) await nativeAddon().probeDevice(name);
  return Device.open(name, options);
}

/** What 'auto' is on this machine: 'cuda' if a GPU can be used, or else 'cpu'. A driver is started off the JavaScript thread. */
export async function defaultDevice(): Promise<'cuda' | 'cpu'> {
  return (await whyUnusable('cuda')) === undefined ? 'cuda' : 'cpu';
}

function isCuda(name: string): boolean {
  return /^cuda(:\d+)?$/.test(name);
}

/** The reason why a CUDA device can't be used; undefined if it can. */
async function whyUnusable(name: string): Promise<string | undefined> {
  try {
    await nativeAddon().probeDevice(name);
    return undefined;
  } catch (error) {
    return (error as Qwen2Error).message;
  }
}

/** Every device of this machine, GPUs first, and why CUDA can't be used where it can't. */
export async function listDevices(): Promise<DeviceStatus[]> {
  const devices: DeviceStatus[] = [];
  for (let index = 0; ; index++) {
    const name = index === 0 ? 'cuda' : `cuda:${index}`;
    const reason = await whyUnusable(name);
    if (reason === undefined) devices.push(describeDevice(name));
    else if (index === 0) devices.push({ name, available: false, description: reason });
    if (reason !== undefined) break;
  }
  return [...devices, describeDevice('cpu'), describeDevice('reference')];
}

function describeDevice(name: string): DeviceStatus {
  const device = Device.open(name);
  const { description, totalBytes, freeBytes } = device.describe();
  device.dispose();
  return { name, available: true, description, totalBytes, freeBytes };
}

/** Measures what a device can do at best: the limits that speeds are held against. About two seconds. */
export async function measureDevice(name: string, options: DeviceOptions = {}): Promise<DeviceLimits> {
  const device = await openDevice(name, options);
  const stream = device.createStream();
  try {
    return await stream.measure();
  } finally {
    stream.dispose();
    device.dispose();
  }
}
