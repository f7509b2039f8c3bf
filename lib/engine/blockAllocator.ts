/** The content of all blocks before the first one. */
export const noPrefix = 0;

/**
 * Hands out the blocks of the KV cache. A full block is known by its tokens and all tokens before it, so that sequences
 * with equal prefixes share blocks; what nobody uses any more keeps its content until its place is needed, the longest
 * unused first (automatic prefix caching, as in vLLM: arXiv:2309.06180).
 */
export class BlockAllocator {
  readonly blockSize: number;
  readonly #references: Int32Array;
  readonly #free: BlockQueue;
  /** Blocks by the key of their content. */
  readonly #known = new Map<string, number>();
  /** Of each block with known content: its key, and the number that keys of blocks behind it begin with. */
  readonly #contents: ({ key: string; id: number } | undefined)[];
  #lastId = noPrefix;
  readonly #keyUnits: number[];

  constructor(blocks: number, blockSize: number) {
    this.blockSize = blockSize;
    this.#references = new Int32Array(blocks);
    this.#keyUnits = new Array(3 + 2 * blockSize).fill(0);
    this.#contents = new Array(blocks).fill(undefined);
    // Low numbers first, so that a lazily backed cache stays small.
    this.#free = new BlockQueue(blocks);
    for (let block = 0; block < blocks; block++) this.#free.push(block);
  }

  get freeBlocks(): number {
    return this.#free.length;
  }

  /** Makes `blocks` long enough for so many tokens. Returns false, and changes nothing, if too few are free. */
  extend(blocks: number[], tokens: number): boolean {
    const missing = Math.ceil(tokens / this.blockSize) - blocks.length;
    if (missing > this.#free.length) return false;
    for (let i = 0; i < missing; i++) blocks.push(this.#take());
    return true;
  }

  /** Gives blocks back; each keeps its content for others while it can, the end of a sequence for the shortest time. */
  release(blocks: readonly number[]): void {
    for (const block of blocks.toReversed()) {
      if (--this.#references[block]! > 0) continue;
      if (this.#contents[block] === undefined) this.#free.pushFront(block);
      else this.#free.push(block);
    }
  }

  /**
   * Appends to `blocks`, which is empty, those that hold the longest known prefix of `tokens`, at most so many tokens.
   *
   * @returns what stands for their content, for `remember` and `keyOf`
   */
  reuse(blocks: number[], tokens: readonly number[], most: number): number {
    let prefix = noPrefix;
    for (let end = this.blockSize; end <= most; end += this.blockSize) {
      const block = this.#known.get(this.keyOf(prefix, tokens, end - this.blockSize));
      if (block === undefined) break;
      if (this.#references[block]!++ === 0) this.#free.remove(block);
      blocks.push(block);
      prefix = this.#contents[block]!.id;
    }
    return prefix;
  }

  /**
   * Notes what a block holds, now that it is computed: the tokens from `start` on, behind a prefix. If another block is
   * known to hold the same, that one stays the one that is shared.
   *
   * @returns what stands for the content up to the end of the block
   */
  remember(block: number, prefix: number, tokens: readonly number[], start: number): number {
    const key = this.keyOf(prefix, tokens, start);
    const known = this.#known.get(key);
    if (known !== undefined) return this.#contents[known]!.id;
    const id = ++this.#lastId;
    this.#known.set(key, block);
    this.#contents[block] = { key, id };
    return id;
  }

  /**
   * The key of a full block: prefix and tokens as characters of 16 bits. Exact, not a hash, so that no content is ever taken
   * for another.
   */
  keyOf(prefix: number, tokens: readonly number[], start: number): string {
    const units = this.#keyUnits;
    units[0] = prefix & 0xffff;
    units[1] = Math.floor(prefix / 0x10000) & 0xffff;
    units[2] = Math.floor(prefix / 0x100000000);
    for (let i = 0; i < this.blockSize; i++) {
      const token = tokens[start + i]!;
      units[3 + 2 * i] = token & 0xffff;
      units[4 + 2 * i] = token >>> 16;
    }
    return String.fromCharCode.apply(undefined, units);
  }

  #take(): number {
    const block = this.#free.shift();
    const content = this.#contents[block];
    if (content !== undefined) this.#known.delete(content.key);
    this.#contents[block] = undefined;
    this.#references[block] = 1;
    return block;
  }
}

/** A queue of block numbers, each in it once at most, from which any can be taken: a list doubly linked in arrays. */
class BlockQueue {
  readonly #next: Int32Array;
  readonly #previous: Int32Array;
  /** The place before the first and behind the last block. */
  readonly #end: number;
  length = 0;

  constructor(blocks: number) {
    this.#end = blocks;
    this.#next = new Int32Array(blocks + 1).fill(blocks);
    this.#previous = new Int32Array(blocks + 1).fill(blocks);
  }

  push(block: number): void {
    this.#insert(block, this.#previous[this.#end]!, this.#end);
  }

  pushFront(block: number): void {
    this.#insert(block, this.#end, this.#next[this.#end]!);
  }

  /** The first block; there is one. */
  shift(): number {
    const block = this.#next[this.#end]!;
    this.remove(block);
    return block;
  }

  remove(block: number): void {
    const [before, behind] = [this.#previous[block]!, this.#next[block]!];
    this.#next[before] = behind;
    this.#previous[behind] = before;
    this.length--;
  }

  #insert(block: number, before: number, behind: number): void {
    this.#next[before] = this.#previous[behind] = block;
    this.#previous[block] = before;
    this.#next[block] = behind;
    this.length++;
  }
}
