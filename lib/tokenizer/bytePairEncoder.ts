import type { MergeTable } from './mergeTable.js';

/** Scratch for pieces up to this many bytes is kept between calls; what a longer one needs is freed after it. */
const keptScratch = 1 << 16;

/**
 * Byte-pair encoding (Sennrich et al. 2016) of one piece of text: starting from single bytes, the adjacent pair of
 * lowest rank is merged, the leftmost among equals, until no pair is left that merges.
 *
 * The tokens form a doubly linked list over byte positions, and a binary heap holds the pairs that merge, keyed by
 * (rank, position). n bytes take O(n log n) time however long the piece is: text without spaces is one piece.
 */
export class BytePairEncoder {
  readonly #byteIds: Int32Array;
  readonly #merges: MergeTable;
  #scratch = new Scratch(256);

  /** @param byteIds the token of each byte; 256 entries */
  constructor(byteIds: Int32Array, merges: MergeTable) {
    this.#byteIds = byteIds;
    this.#merges = merges;
  }

  /** Appends the tokens of bytes[0, length) to `out`. */
  encode(bytes: Uint8Array, length: number, out: number[]): void {
    if (length > this.#scratch.capacity) this.#scratch = new Scratch(length);
    const { ids, next } = this.#scratch;
    this.#link(bytes, length);
    this.#mergeAll(length);
    for (let at = 0; at < length; at = next[at]!) out.push(ids[at]!);
    if (this.#scratch.capacity > keptScratch) this.#scratch = new Scratch(256);
  }

  /** One token a byte, each linked to its neighbours, and the heap filled with the pairs that merge. */
  #link(bytes: Uint8Array, length: number): void {
    const { ids, next, previous, heap } = this.#scratch;
    heap.clear();
    for (let at = 0; at < length; at++) {
      ids[at] = this.#byteIds[bytes[at]!]!;
      next[at] = at + 1;
      previous[at] = at - 1;
    }
    for (let at = 0; at < length; at++) this.#queuePair(at, length);
  }

  #mergeAll(length: number): void {
    const { ids, next, previous, pair, heap } = this.#scratch;
    for (let key = heap.pop(); key >= 0; key = heap.pop()) {
      const rank = Math.floor(key / positions);
      const at = key - rank * positions;
      const slot = pair[at]!;
      // An entry is stale when its pair has changed since; the changed pair has its own entry.
      if (slot < 0 || this.#merges.rank(slot) !== rank) continue;
      const right = next[at]!;
      const after = next[right]!;
      ids[at] = this.#merges.merged(slot);
      pair[right] = -1;
      next[at] = after;
      if (after < length) previous[after] = at;
      this.#queuePair(at, length);
      if (previous[at]! >= 0) this.#queuePair(previous[at]!, length);
    }
  }

  /** Notes which merge the token at `at` and its right neighbour have, and queues it. */
  #queuePair(at: number, length: number): void {
    const { ids, next, pair, heap } = this.#scratch;
    const right = next[at]!;
    const slot = right < length ? this.#merges.find(ids[at]!, ids[right]!) : -1;
    pair[at] = slot;
    if (slot >= 0) heap.push(this.#merges.rank(slot) * positions + at);
  }
}

/** A heap key is rank × positions + position: both are below 2^21 and 2^32, so a double holds it exactly. */
const positions = 2 ** 32;
export const maxMerges = 2 ** 21;

class Scratch {
  readonly capacity: number;
  /** Token at each position where one begins. */
  readonly ids: Int32Array;
  /** Where the next token begins; the piece's length after the last. */
  readonly next: Int32Array;
  /** Where the token before begins; −1 before the first. */
  readonly previous: Int32Array;
  /** Slot of the merge of the token here with the next one; −1 if there is none, or no token begins here. */
  readonly pair: Int32Array;
  readonly heap: MinHeap;

  constructor(capacity: number) {
    this.capacity = capacity;
    this.ids = new Int32Array(capacity);
    this.next = new Int32Array(capacity);
    this.previous = new Int32Array(capacity);
    this.pair = new Int32Array(capacity);
    // n − 1 pairs to begin with; each of at most n − 1 merges takes one entry out and puts at most two in.
    this.heap = new MinHeap(2 * capacity);
  }
}

/** A binary min-heap of non-negative numbers. */
class MinHeap {
  readonly #keys: Float64Array;
  #size = 0;

  constructor(capacity: number) {
    this.#keys = new Float64Array(capacity);
  }

  clear(): void {
    this.#size = 0;
  }

  push(key: number): void {
    const keys = this.#keys;
    let at = this.#size++;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      if (keys[parent]! <= key) break;
      keys[at] = keys[parent]!;
      at = parent;
    }
    keys[at] = key;
  }

  /** Takes out the smallest key; −1 if the heap is empty. */
  pop(): number {
    if (this.#size === 0) return -1;
    const keys = this.#keys;
    const smallest = keys[0]!;
    const key = keys[--this.#size]!;
    const size = this.#size;
    let at = 0;
    for (let child = 1; child < size; child = 2 * at + 1) {
      if (child + 1 < size && keys[child + 1]! < keys[child]!) child++;
      if (keys[child]! >= key) break;
      keys[at] = keys[child]!;
      at = child;
    }
    keys[at] = key;
    return smallest;
  }
}
