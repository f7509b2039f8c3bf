/**
 * The merges of a BPE model: (left id, right id) → (rank, id of the merged token), as an open-addressing hash table in
 * typed arrays. A lookup allocates nothing, and 151,387 merges take 8 MiB.
 */
export class MergeTable {
  readonly #left: Int32Array;
  readonly #right: Int32Array;
  readonly #rank: Int32Array;
  readonly #merged: Int32Array;
  readonly #mask: number;

  /** @param capacity how many merges will be added at most */
  constructor(capacity: number) {
    // At most half full, so that a probe sequence stays short.
    const slots = 2 ** Math.ceil(Math.log2(Math.max(2 * capacity, 2)));
    this.#left = new Int32Array(slots).fill(-1);
    this.#right = new Int32Array(slots);
    this.#rank = new Int32Array(slots);
    this.#merged = new Int32Array(slots);
    this.#mask = slots - 1;
  }

  /** Adds a merge; the lower the rank, the earlier it is applied. A pair that is added twice keeps the second. */
  add(left: number, right: number, rank: number, merged: number): void {
    const slot = this.#probe(left, right);
    this.#left[slot] = left;
    this.#right[slot] = right;
    this.#rank[slot] = rank;
    this.#merged[slot] = merged;
  }

  /** The slot of a pair of tokens, for `rank` and `merged`; −1 if the pair doesn't merge. */
  find(left: number, right: number): number {
    const slot = this.#probe(left, right);
    return this.#left[slot] === left ? slot : -1;
  }

  rank(slot: number): number {
    return this.#rank[slot]!;
  }

  merged(slot: number): number {
    return this.#merged[slot]!;
  }

  /** The pair's slot, or the free slot where it would go. */
  #probe(left: number, right: number): number {
    let hash = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca77);
    hash ^= hash >>> 15;
    let slot = hash & this.#mask;
    while (this.#left[slot] !== -1 && (this.#left[slot] !== left || this.#right[slot] !== right)) {
      slot = (slot + 1) & this.#mask;
    }
    return slot;
  }
}
