/** Lines of a batch that one worker takes at a time: what stands in the queue. */
export interface Shard {
  /** Which batch. */
  batch: string;
  lines: readonly ShardLine[];
}

export interface ShardLine {
  /** Of the request, and of the line in the input. */
  id: string;
  number: number;
  text: string;
}

/** What a worker made of a line. */
export interface ShardResult {
  id: string;
  /** As it is to stand in the output. */
  line: string;
  failed: boolean;
  promptTokens: number;
  completionTokens: number;
}

/**
 * Which shards are out, and which of their requests have no result yet. A result may come twice, where a worker that was
 * taken for dead was not: it counts once.
 */
export class Ledger {
  /** Ids that have a result. */
  readonly done: Set<string>;
  /** Shards that are out, with what is missing of them. */
  readonly #shards = new Map<string, Map<string, ShardLine>>();
  readonly #shardOf = new Map<string, string>();

  constructor(done: Set<string>) {
    this.done = done;
  }

  /** Shards that are out. */
  get shards(): number {
    return this.#shards.size;
  }

  names(): readonly string[] {
    return [...this.#shards.keys()];
  }

  /** Requests that are out. */
  get requests(): number {
    return this.#shardOf.size;
  }

  isOut(id: string): boolean {
    return this.#shardOf.has(id);
  }

  /** Notes that a shard is out. */
  add(shard: string, lines: readonly ShardLine[]): void {
    const missing = lines.filter(({ id }) => !this.done.has(id) && !this.isOut(id));
    if (missing.length === 0) return;
    this.#shards.set(shard, new Map(missing.map((line) => [line.id, line])));
    for (const { id } of missing) this.#shardOf.set(id, shard);
  }

  /** Notes a result; false if there was one. */
  take(id: string): boolean {
    if (this.done.has(id)) return false;
    this.done.add(id);
    const shard = this.#shardOf.get(id);
    if (shard !== undefined) {
      this.#shardOf.delete(id);
      const missing = this.#shards.get(shard)!;
      missing.delete(id);
      if (missing.size === 0) this.#shards.delete(shard);
    }
    return true;
  }

  /** Strikes a shard off; what is missing of it. */
  remove(shard: string): ShardLine[] {
    const missing = [...(this.#shards.get(shard)?.values() ?? [])];
    this.#shards.delete(shard);
    for (const { id } of missing) this.#shardOf.delete(id);
    return missing;
  }
}
