import { createRequire } from 'node:module';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Qwen2Error, type Qwen2ErrorCode } from './errors.js';

/** A field of an operation's argument struct, as the native side declares it. */
export interface OperationField {
  name: string;
  type: 'tensor' | 'optionalTensor' | 'i32' | 'f32' | 'dtype';
}

/** What a device says of itself. Sizes in bytes. */
export interface DeviceDescription {
  /** Such as "AMD EPYC, AVX-512 BF16, 2 threads". */
  description: string;
  /** SIMD level of the CPU, compute capability of a GPU. */
  variant: string;
  threads: number;
  totalBytes: number;
  freeBytes: number;
  /** Held by storages of this device object. */
  allocatedBytes: number;
}

/** The measured best of a device. */
export interface DeviceLimits {
  readBytesPerSecond: number;
  /** bf16 products accumulated in fp32; a multiply and an add are two operations. */
  bf16OperationsPerSecond: number;
  /** The same of bytes; 0 where int4 and int8 weights are multiplied as bf16. */
  int8OperationsPerSecond: number;
}

/**
 * The whole native contract. Objects are numbers; every call returns at once; promises settle on the event loop. What
 * is wrong with arguments is thrown at the call, what goes wrong in queued work rejects the next wait on its stream.
 */
export interface NativeAddon {
  setErrorClass(errorClass: new (code: Qwen2ErrorCode, message: string) => Error): void;
  operations(): { name: string; fields: OperationField[] }[];
  cpuLevels(): string[];
  probeDevice(name: string): Promise<void>;

  openDevice(name: string, threads: number, simd: string): number;
  describeDevice(device: number): DeviceDescription;
  closeDevice(device: number): void;
  packedBytes(device: number, dtype: number, rows: number, columns: number, group: number): number;
  kvBlockBytes(device: number, dtype: number, kvHeads: number, headDim: number, blockSize: number): number;

  allocate(device: number, bytes: number): number;
  allocateInBackground(device: number, bytes: number): Promise<number>;
  release(storage: number): Promise<void>;

  createStream(device: number): number;
  destroyStream(stream: number): void;
  enqueue(stream: number, operation: number, numbers: Float64Array, count: number): void;
  upload(stream: number, storage: number, offset: number, bytes: Uint8Array): void;
  download(stream: number, storage: number, offset: number, to: Uint8Array): Promise<void>;
  synchronize(stream: number): Promise<void>;
  recordEvent(stream: number): number;
  waitEvent(stream: number, event: number): void;
  releaseEvent(event: number): void;
  beginCapture(stream: number): void;
  endCapture(stream: number): number;
  launch(stream: number, graph: number): void;
  releaseGraph(graph: number): void;
  measure(stream: number): Promise<DeviceLimits>;

  readFile(
    stream: number,
    fd: number,
    fileOffset: number,
    bytes: number,
    storage: number,
    offset: number,
  ): Promise<void>;
  trimStaging(device: number): Promise<void>;
}

/** The package's folder: what holds package.json, build/ and prebuilds/. */
export const packageFolder = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));

let loaded: NativeAddon | undefined;

/** Loads the addon: a build in build/Release, or else the prebuilt one of this platform. */
export function nativeAddon(): NativeAddon {
  loaded ??= load();
  return loaded;
}

function load(): NativeAddon {
  const require = createRequire(import.meta.url);
  try {
    const override = process.env.QWEN2_ADDON;
    const addon: NativeAddon = override ? require(override) : require('node-gyp-build')(packageFolder);
    addon.setErrorClass(Qwen2Error);
    return addon;
  } catch (cause) {
    throw new Qwen2Error(
      'device_unavailable',
      `The native addon of qwen2-node can't be loaded for ${process.platform}-${process.arch}: ${(cause as Error).message.split('\n')[0]}. ` +
        'Rebuild it with "npm rebuild qwen2-node" (needs cmake and g++ 12). In an Electron app, keep it outside the ' +
        'archive: asarUnpack ["**/*.{node,so}"].',
      { cause },
    );
  }
}
