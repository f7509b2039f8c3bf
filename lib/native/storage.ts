import { nativeAddon } from './addon.js';

/** A piece of device memory. Work that is still queued keeps it alive after it is disposed. */
export class Storage {
  readonly id: number;
  readonly bytes: number;
  #released: Promise<void> | undefined;

  constructor(id: number, bytes: number) {
    this.id = id;
    this.bytes = bytes;
  }

  /** Resolves when the memory is given back, unless queued work still holds it. */
  dispose(): Promise<void> {
    this.#released ??= nativeAddon().release(this.id);
    return this.#released;
  }
}
