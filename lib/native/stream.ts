import { type DeviceLimits, nativeAddon, type OperationField } from './addon.js';
import { Qwen2Error } from './errors.js';
import type { OpArguments, OpName } from './ops.js';
import { type DType, dtypeIndex, layoutIndex, type Tensor } from './tensor.js';

/** Typed arrays that tensors are read into and written from, by dtype. */
type HostArray = Float32Array | Int32Array | Uint16Array | Uint8Array;

interface Operation {
  index: number;
  fields: readonly OperationField[];
}

/** Numbers a tensor takes in an argument record (csrc/addon/marshal.h). */
const tensorNumbers = 14;
/** Room for the largest argument struct. */
const record = new Float64Array(32 * tensorNumbers);

let operationsByName: Map<string, Operation> | undefined;

function operation(name: string): Operation {
  operationsByName ??= new Map(
    nativeAddon()
      .operations()
      .map(({ name, fields }, index) => [name, { index, fields }]),
  );
  const found = operationsByName.get(name);
  if (found === undefined) throw new Qwen2Error('internal', `There is no operation '${name}'`);
  return found;
}

/**
 * Work in order. Every call returns at once; a native thread executes. The earliest error is kept: the work behind it is
 * skipped, downloads behind it reject with it, and the next `synchronized()` rejects with it and clears it.
 */
export class Stream {
  readonly id: number;
  #destroyed = false;

  constructor(id: number) {
    this.id = id;
  }

  /** Enqueues an operation. @throws invalid_argument if the arguments break its contract */
  run<Name extends OpName>(name: Name, args: OpArguments[Name]): void {
    const { index, fields } = operation(name);
    const values = args as Record<string, Tensor | number | DType | undefined>;
    let at = 0;
    for (const field of fields) at = writeField(values[field.name], at);
    nativeAddon().enqueue(this.id, index, record, at);
  }

  /** Copies a typed array of the tensor's dtype (16-bit floats as Uint16Array) into a contiguous tensor. */
  upload(to: Tensor, from: HostArray): void {
    const bytes = new Uint8Array(from.buffer, from.byteOffset, from.byteLength);
    requireBytes(to, bytes.length);
    nativeAddon().upload(this.id, to.storage.id, to.byteOffset, bytes);
  }

  /** Fills `to`, which must not be touched until the promise settles, from a contiguous tensor. */
  async download<Into extends HostArray>(from: Tensor, to: Into): Promise<Into> {
    const bytes = new Uint8Array(to.buffer, to.byteOffset, to.byteLength);
    requireBytes(from, bytes.length);
    await nativeAddon().download(this.id, from.storage.id, from.byteOffset, bytes);
    return to;
  }

  /** Resolves when everything enqueued so far is done; rejects with the earliest error since the last call. */
  async synchronized(): Promise<void> {
    await nativeAddon().synchronize(this.id);
  }

  /** Marks this point, for `wait` of another stream. */
  record(): Event {
    return new Event(nativeAddon().recordEvent(this.id));
  }

  /** The work enqueued from here on starts when the event has happened. */
  wait(event: Event): void {
    nativeAddon().waitEvent(this.id, event.id);
  }

  /** Records the operations that `body` enqueues instead of running them. */
  capture(body: () => void): Graph {
    nativeAddon().beginCapture(this.id);
    try {
      body();
    } catch (error) {
      nativeAddon().releaseGraph(nativeAddon().endCapture(this.id));
      throw error;
    }
    return new Graph(nativeAddon().endCapture(this.id));
  }

  /** Replays a captured graph in one call. */
  launch(graph: Graph): void {
    nativeAddon().launch(this.id, graph.id);
  }

  /** Measures what the device can do at best; about two seconds. */
  async measure(): Promise<DeviceLimits> {
    return await nativeAddon().measure(this.id);
  }

  /**
   * Drops what is queued and ends the thread behind the stream; promises for dropped work reject. Await `synchronized()`
   * first to let work finish.
   */
  dispose(): void {
    if (this.#destroyed) return;
    this.#destroyed = true;
    nativeAddon().destroyStream(this.id);
  }
}

/** A point in a stream. */
export class Event {
  readonly id: number;
  #released = false;

  constructor(id: number) {
    this.id = id;
  }

  dispose(): void {
    if (this.#released) return;
    this.#released = true;
    nativeAddon().releaseEvent(this.id);
  }
}

/** A recorded list of operations; it keeps the memory that they touch. */
export class Graph {
  readonly id: number;
  #released = false;

  constructor(id: number) {
    this.id = id;
  }

  dispose(): void {
    if (this.#released) return;
    this.#released = true;
    nativeAddon().releaseGraph(this.id);
  }
}

function writeField(value: Tensor | number | DType | undefined, at: number): number {
  if (typeof value === 'number' || typeof value === 'string') {
    record[at] = typeof value === 'number' ? value : dtypeIndex[value];
    return at + 1;
  }
  record.fill(0, at, at + tensorNumbers);
  if (value === undefined) return at + tensorNumbers;
  record[at] = value.storage.id;
  record[at + 1] = value.byteOffset;
  record[at + 2] = dtypeIndex[value.dtype];
  record[at + 3] = layoutIndex[value.layout];
  record[at + 4] = value.shape.length;
  for (let i = 0; i < value.shape.length; i++) {
    record[at + 5 + i] = value.shape[i]!;
    record[at + 9 + i] = value.strides[i]!;
  }
  record[at + 13] = value.group;
  return at + tensorNumbers;
}

function requireBytes(tensor: Tensor, bytes: number): void {
  if (!tensor.isContiguous || tensor.byteLength !== bytes)
    throw new Qwen2Error(
      'invalid_argument',
      `${bytes} bytes were given for a tensor ${tensor.dtype}[${tensor.shape}] of ${tensor.byteLength} contiguous bytes`,
    );
}
