/** Hands out the blocks of the KV cache. */
export class BlockAllocator {
  readonly blockSize: number;
  readonly #free: number[];

  constructor(blocks: number, blockSize: number) {
    this.blockSize = blockSize;
    // Handed out from the end: low numbers first, so that a lazily backed cache stays small.
    this.#free = Array.from({ length: blocks }, (_, i) => blocks - 1 - i);
  }

  get freeBlocks(): number {
    return this.#free.length;
  }

  /** Makes `blocks` long enough for so many tokens. Returns false, and changes nothing, if too few are free. */
  extend(blocks: number[], tokens: number): boolean {
    const missing = Math.ceil(tokens / this.blockSize) - blocks.length;
    if (missing > this.#free.length) return false;
    for (let i = 0; i < missing; i++) blocks.push(this.#free.pop()!);
    return true;
  }

  release(blocks: readonly number[]): void {
    for (const block of blocks) this.#free.push(block);
  }
}
