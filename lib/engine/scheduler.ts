import { type BlockAllocator, noPrefix } from './blockAllocator.js';
import type { Sequence } from './sequence.js';
import { WaitingLine } from './waitingLine.js';

/** A sequence's part of a step: its next `count` tokens. */
export interface StepEntry {
  sequence: Sequence;
  count: number;
  /** The sequence's blocks when the step was planned. */
  blocks: readonly number[];
  /** Tokens of the sequence that are computed when the step is through. */
  end: number;
  /** Whether these are all that there are, so that the next one is chosen. */
  choosesToken: boolean;
}

export interface SchedulerLimits {
  /** Tokens of one step. */
  tokens: number;
  /** Sequences of one step. */
  sequences: number;
}

/**
 * By how many later arrivals a sequence is overtaken for each step of priority below theirs. Bounded, so that nothing waits
 * for ever.
 */
export const arrivalsPerPriority = 1000;

/** How many waiting sequences are looked at in a step beyond those that start, because their prefix is being computed. */
const lookahead = 64;

/**
 * Decides what the next step computes: first one token of every sequence that is generating, then prompts, in the order of
 * their turns, cut into chunks that fit the rest of the step.
 *
 * A prompt is admitted when the cache has room for all of it that is not there already; one whose prefix another sequence
 * is just computing waits for that. When generating sequences outgrow the cache, the one whose turn is last gives up its
 * blocks and is computed anew later (recomputation, as in vLLM: arXiv:2309.06180).
 *
 * A step may be planned while others are under way: as if each of their sequences went on. What they choose is on the device
 * by then, and those that turn out to have ended have been computed for nothing.
 *
 * A step costs as much as it has sequences, however many wait.
 */
export class Scheduler {
  readonly #limits: SchedulerLimits;
  readonly #allocator: BlockAllocator;
  readonly #onPutBack: (sequence: Sequence) => void;
  /** In the order of their turns. */
  readonly #running: Sequence[] = [];
  readonly #waiting = new WaitingLine();
  /** The next full block of each prompt that is being computed, by its key. */
  readonly #inProgress = new Map<string, Sequence>();
  #arrivals = 0;
  #waitingCount = 0;
  /** Tokens of admitted prompts, and how many of them were in the cache. */
  readonly prefixes = { tokens: 0, found: 0 };
  preemptions = 0;

  /** @param onPutBack called with every sequence that gives up its place */
  constructor(limits: SchedulerLimits, allocator: BlockAllocator, onPutBack: (sequence: Sequence) => void = () => {}) {
    this.#limits = limits;
    this.#allocator = allocator;
    this.#onPutBack = onPutBack;
  }

  get running(): number {
    return this.#running.length;
  }

  get waiting(): number {
    return this.#waitingCount;
  }

  add(sequence: Sequence): void {
    sequence.turn = this.#arrivals++ + arrivalsPerPriority * sequence.request.priority;
    this.#wait(sequence);
  }

  /** Ends a sequence, wherever it is. Its blocks are free for work that is enqueued from here on. */
  remove(sequence: Sequence): void {
    if (sequence.ended) return;
    sequence.ended = true;
    const index = this.#running.indexOf(sequence);
    if (index < 0) {
      this.#waitingCount--;
      return;
    }
    this.#running.splice(index, 1);
    this.#release(sequence);
  }

  /** Sequences that have not ended, those that run first. */
  all(): Sequence[] {
    return [...this.#running, ...this.#waiting.all()];
  }

  /** The next step's entries, generating sequences first; none if there is nothing to do. It is under way from here on. */
  next(): StepEntry[] {
    const entries: StepEntry[] = [];
    let budget = this.#limits.tokens;
    const take = (sequence: Sequence) => {
      const count = Math.min(sequence.pending, budget);
      if (count <= 0) return;
      const { blocks, computed, pending, request } = sequence;
      entries.push({
        sequence,
        count,
        blocks,
        end: computed + count,
        choosesToken: count === pending && request.maxTokens > 0,
      });
      budget -= count;
    };
    for (const sequence of this.#running.filter(isGenerating)) {
      const wasPutBack = sequence.blocks.length === 0;
      if (!wasPutBack && this.#makeRoom(sequence)) take(sequence);
    }
    for (const sequence of this.#running) if (!isGenerating(sequence) && !sequence.isComplete) take(sequence);
    const postponed: Sequence[] = [];
    while (budget > 0 && postponed.length < lookahead) {
      const admitted = this.#admit(postponed);
      if (admitted === undefined) break;
      take(admitted);
    }
    for (const sequence of postponed) this.#waiting.push(sequence);
    for (const { sequence, end, choosesToken } of entries) {
      sequence.computed = end;
      if (choosesToken) sequence.unheard++;
    }
    return entries;
  }

  /** Takes note that a step's entry was computed. */
  confirm({ sequence, blocks, end }: StepEntry): void {
    if (sequence.ended || sequence.blocks !== blocks) return;
    this.#remember(sequence, end);
    this.#announce(sequence);
  }

  /** Takes back a step's entry that was not computed as planned: its sequence, if it goes on, is computed anew. */
  takeBack({ sequence, choosesToken }: StepEntry): void {
    if (sequence.ended) return;
    if (choosesToken) sequence.unheard--;
    sequence.delivered = sequence.heard;
    const index = this.#running.indexOf(sequence);
    if (index < 0) return;
    this.#running.splice(index, 1);
    this.#putBack(sequence);
  }

  /** To those that wait, without its blocks. */
  #putBack(sequence: Sequence): void {
    this.#release(sequence);
    this.#wait(sequence);
    this.#onPutBack(sequence);
  }

  #wait(sequence: Sequence): void {
    this.#waiting.push(sequence);
    this.#waitingCount++;
  }

  /** Gives a generating sequence room for its next token, at the cost of those whose turns are later, and of itself last. */
  #makeRoom(sequence: Sequence): boolean {
    while (!this.#allocator.extend(sequence.blocks, sequence.length)) {
      const last = this.#running.pop()!;
      this.#putBack(last);
      this.preemptions++;
      if (last === sequence) return false;
    }
    return true;
  }

  /**
   * The first of those that wait, if there is room for it. Those whose prefix is being computed are postponed. One of which
   * a token is not heard of must wait for that, to be computed anew with it: until then nobody overtakes it, because the
   * room that it finds is soon its own.
   */
  #admit(postponed: Sequence[]): Sequence | undefined {
    if (this.#running.length >= this.#limits.sequences) return undefined;
    for (let sequence = this.#waiting.first(); sequence !== undefined; sequence = this.#waiting.first()) {
      if (sequence.unheard > 0) return undefined;
      this.#reuse(sequence);
      if (!this.#waitsForPrefix(sequence)) break;
      this.#release(sequence);
      this.#waiting.shift();
      postponed.push(sequence);
      if (postponed.length === lookahead) return undefined;
    }
    const sequence = this.#waiting.first();
    if (sequence === undefined) return undefined;
    if (!this.#allocator.extend(sequence.blocks, sequence.tokens.length)) {
      this.#release(sequence);
      return undefined;
    }
    this.#waiting.shift();
    this.#waitingCount--;
    this.#start(sequence);
    this.prefixes.tokens += sequence.tokens.length;
    this.prefixes.found += sequence.computed;
    this.#announce(sequence);
    return sequence;
  }

  #start(sequence: Sequence): void {
    let at = this.#running.length;
    while (at > 0 && this.#running[at - 1]!.turn > sequence.turn) at--;
    this.#running.splice(at, 0, sequence);
  }

  /** Gives a sequence what the cache has of its tokens, but for the last one: something must be computed. */
  #reuse(sequence: Sequence): void {
    if (!sequence.readsPrefixes) return;
    sequence.prefix = this.#allocator.reuse(sequence.blocks, sequence.tokens, sequence.tokens.length - 1);
    sequence.remembered = sequence.blocks.length;
    sequence.computed = sequence.remembered * this.#allocator.blockSize;
  }

  #waitsForPrefix(sequence: Sequence): boolean {
    const key = sequence.readsPrefixes ? this.#nextKey(sequence) : undefined;
    return key !== undefined && this.#inProgress.has(key);
  }

  /** The key of the first full block that is not remembered. */
  #nextKey({ tokens, prefix, remembered }: Sequence): string | undefined {
    const start = remembered * this.#allocator.blockSize;
    const isFull = start + this.#allocator.blockSize <= tokens.length;
    return isFull ? this.#allocator.keyOf(prefix, tokens, start) : undefined;
  }

  #remember(sequence: Sequence, end: number): void {
    const { blockSize } = this.#allocator;
    const { blocks, tokens } = sequence;
    for (; (sequence.remembered + 1) * blockSize <= end; sequence.remembered++) {
      const start = sequence.remembered * blockSize;
      sequence.prefix = this.#allocator.remember(blocks[sequence.remembered]!, sequence.prefix, tokens, start);
    }
  }

  /** Tells others which block a prompt's next tokens will fill. */
  #announce(sequence: Sequence): void {
    this.#retract(sequence);
    const key = isGenerating(sequence) ? undefined : this.#nextKey(sequence);
    if (key === undefined || this.#inProgress.has(key)) return;
    this.#inProgress.set(key, sequence);
    sequence.announced = key;
  }

  #retract(sequence: Sequence): void {
    if (sequence.announced !== undefined) this.#inProgress.delete(sequence.announced);
    sequence.announced = undefined;
  }

  #release(sequence: Sequence): void {
    this.#retract(sequence);
    this.#allocator.release(sequence.blocks);
    sequence.blocks = [];
    sequence.computed = sequence.remembered = 0;
    sequence.prefix = noPrefix;
  }
}

function isGenerating(sequence: Sequence): boolean {
  return sequence.pending === 1 && sequence.computed > 0 && !sequence.isComplete;
}
