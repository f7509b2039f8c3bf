import type { BlockAllocator } from './blockAllocator.js';
import type { Sequence } from './sequence.js';

/** A sequence's part of a step: its next `count` tokens. */
export interface StepEntry {
  sequence: Sequence;
  count: number;
}

export interface SchedulerLimits {
  /** Tokens of one step. */
  tokens: number;
  /** Sequences of one step. */
  sequences: number;
}

/**
 * Decides what the next step computes: first one token of every sequence that is generating, then prompts, in the order
 * in which they came, cut into chunks that fit the rest of the step.
 *
 * A prompt is admitted when the cache has room for all of it. When generating sequences outgrow the cache, the one that
 * came last gives up its blocks and is computed anew later (recomputation, as in vLLM: arXiv:2309.06180).
 */
export class Scheduler {
  readonly #limits: SchedulerLimits;
  readonly #allocator: BlockAllocator;
  readonly #running: Sequence[] = [];
  readonly #waiting = new WaitingLine();

  constructor(limits: SchedulerLimits, allocator: BlockAllocator) {
    this.#limits = limits;
    this.#allocator = allocator;
  }

  add(sequence: Sequence): void {
    this.#waiting.push(sequence);
  }

  /** Ends a sequence, wherever it is. Its blocks are free for work that is enqueued from here on. */
  remove(sequence: Sequence): void {
    sequence.ended = true;
    const index = this.#running.indexOf(sequence);
    if (index < 0) return;
    this.#running.splice(index, 1);
    this.#release(sequence);
  }

  /** Sequences that have not ended, those that run first. */
  all(): Sequence[] {
    return [...this.#running, ...this.#waiting.all()];
  }

  /** The next step's entries, generating sequences first; none if there is nothing to do. */
  next(): StepEntry[] {
    const entries: StepEntry[] = [];
    for (const sequence of this.#running.filter(isGenerating)) {
      const wasPutBack = sequence.blocks.length === 0;
      if (!wasPutBack && this.#makeRoom(sequence)) entries.push({ sequence, count: 1 });
    }
    let budget = this.#limits.tokens - entries.length;
    const take = (sequence: Sequence) => {
      const count = Math.min(sequence.pending, budget);
      if (count > 0) entries.push({ sequence, count });
      budget -= count;
    };
    const generating = new Set(entries.map(({ sequence }) => sequence));
    for (const sequence of this.#running) if (!generating.has(sequence)) take(sequence);
    while (budget > 0 && this.#admit()) take(this.#running.at(-1)!);
    return entries;
  }

  /** Gives a generating sequence room for its next token, at the cost of those that came later, and of itself last. */
  #makeRoom(sequence: Sequence): boolean {
    while (!this.#allocator.extend(sequence.blocks, sequence.tokens.length)) {
      const last = this.#running.pop()!;
      this.#release(last);
      this.#waiting.pushFront(last);
      if (last === sequence) return false;
    }
    return true;
  }

  #admit(): boolean {
    const sequence = this.#waiting.first();
    if (sequence === undefined || this.#running.length >= this.#limits.sequences) return false;
    if (!this.#allocator.extend(sequence.blocks, sequence.tokens.length)) return false;
    this.#waiting.shift();
    this.#running.push(sequence);
    return true;
  }

  #release(sequence: Sequence): void {
    this.#allocator.release(sequence.blocks);
    sequence.blocks = [];
    sequence.computed = 0;
  }
}

function isGenerating(sequence: Sequence): boolean {
  return sequence.pending === 1 && sequence.computed > 0;
}

/** First come, first served; what was put back goes first. Ended sequences drop out when their turn comes. */
class WaitingLine {
  #items: Sequence[] = [];
  #head = 0;
  /** Last in, first out: of two that were put back, the one that came earlier was put back later. */
  readonly #putBack: Sequence[] = [];

  push(sequence: Sequence): void {
    this.#items.push(sequence);
  }

  pushFront(sequence: Sequence): void {
    this.#putBack.push(sequence);
  }

  first(): Sequence | undefined {
    while (this.#putBack.at(-1)?.ended) this.#putBack.pop();
    if (this.#putBack.length > 0) return this.#putBack.at(-1);
    while (this.#items[this.#head]?.ended) this.#advance();
    return this.#items[this.#head];
  }

  shift(): void {
    if (this.#putBack.length > 0) this.#putBack.pop();
    else this.#advance();
  }

  all(): Sequence[] {
    return [...this.#putBack.toReversed(), ...this.#items.slice(this.#head)].filter(({ ended }) => !ended);
  }

  /** Array.shift() would move all that wait, for each that leaves. */
  #advance(): void {
    this.#head++;
    if (this.#head * 2 < this.#items.length) return;
    this.#items = this.#items.slice(this.#head);
    this.#head = 0;
  }
}
