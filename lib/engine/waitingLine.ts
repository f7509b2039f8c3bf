import type { Sequence } from './sequence.js';

/**
 * Sequences that wait, in the order of their turns: a binary heap. Those that have ended drop out when their turn comes, so
 * that an abort costs nothing.
 */
export class WaitingLine {
  #heap: Sequence[] = [];

  push(sequence: Sequence): void {
    const heap = this.#heap;
    let at = heap.push(sequence) - 1;
    for (let parent = (at - 1) >> 1; at > 0 && comesBefore(sequence, heap[parent]!); parent = (at - 1) >> 1) {
      heap[at] = heap[parent]!;
      at = parent;
    }
    heap[at] = sequence;
  }

  first(): Sequence | undefined {
    while (this.#heap[0]?.ended) this.shift();
    return this.#heap[0];
  }

  shift(): Sequence | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return first;
    let at = 0;
    for (let child = 1; child < heap.length; child = 2 * at + 1) {
      if (child + 1 < heap.length && comesBefore(heap[child + 1]!, heap[child]!)) child++;
      if (!comesBefore(heap[child]!, last)) break;
      heap[at] = heap[child]!;
      at = child;
    }
    heap[at] = last;
    return first;
  }

  all(): Sequence[] {
    return this.#heap.filter(({ ended }) => !ended).sort((a, b) => a.turn - b.turn);
  }
}

function comesBefore(a: Sequence, b: Sequence): boolean {
  return a.turn < b.turn;
}
