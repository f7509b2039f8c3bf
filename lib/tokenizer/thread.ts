import { Worker } from 'node:worker_threads';
import { Qwen2Error } from '../native/errors.js';
import type { Request, Response } from './messages.js';
import type { VocabularyData } from './vocabulary.js';

type Result = Int32Array | string;
type Question = Exclude<Request, { kind: 'part' }>;

interface Pending {
  resolve(result: Result): void;
  reject(error: unknown): void;
}

/** The near end of a tokenizer's thread. The process lives while an answer is awaited, and may end while none is. */
export class TokenizerThread {
  readonly #worker: Worker;
  readonly #pending = new Map<number, Pending>();
  #lastId = 0;
  /** Why nothing can be asked any more. */
  #ended: Qwen2Error | undefined;

  /** @throws not_found, invalid_checkpoint, unsupported, io_error, aborted */
  static async start(
    folder: string,
    signal: AbortSignal | undefined,
  ): Promise<{ thread: TokenizerThread; vocabulary: VocabularyData; hasChatTemplate: boolean }> {
    const worker = new Worker(new URL('./worker.js', import.meta.url), {
      workerData: folder,
      // What the program's own first file was started with, such as --input-type, is not for this one.
      execArgv: [],
    });
    let onAbort: () => void = () => {};
    try {
      const ready = await new Promise<Extract<Response, { kind: 'ready' }>>((resolve, reject) => {
        onAbort = () =>
          reject(new Qwen2Error('aborted', 'Loading was aborted by its AbortSignal', { cause: signal?.reason }));
        signal?.addEventListener('abort', onAbort, { once: true });
        worker.once('error', (cause) => reject(brokenError(cause)));
        worker.once('exit', () => reject(brokenError()));
        worker.once('message', (response: Response) => {
          if (response.kind === 'ready') resolve(response);
          else if (response.kind === 'failed') reject(new Qwen2Error(response.code, response.message));
        });
      });
      const { vocabulary, hasChatTemplate } = ready;
      return { thread: new TokenizerThread(worker), vocabulary, hasChatTemplate };
    } catch (error) {
      await worker.terminate();
      throw error;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  private constructor(worker: Worker) {
    this.#worker = worker;
    worker.unref();
    worker.on('message', (response: Response) => this.#settle(response));
    worker.on('error', (cause) => this.#end(brokenError(cause)));
    worker.on('exit', () => this.#end(brokenError()));
  }

  nextId(): number {
    return ++this.#lastId;
  }

  /** @throws disposed; invalid_argument if the request holds what can't move to another thread */
  post(request: Request): void {
    if (this.#ended) throw this.#ended;
    try {
      this.#worker.postMessage(request);
    } catch (cause) {
      throw new Qwen2Error('invalid_argument', `Messages and tools must be plain data: ${(cause as Error).message}`, {
        cause,
      });
    }
  }

  /**
   * Resolves with the answer, or rejects as soon as the signal fires.
   *
   * @param cancelled what the thread reads to know that nobody waits any more
   */
  async ask(
    question: Question,
    waiting: { signal?: AbortSignal | undefined; cancelled?: Int32Array } = {},
  ): Promise<Result> {
    const { signal, cancelled } = waiting;
    this.post(question);
    let onAbort: () => void = () => {};
    this.#worker.ref();
    try {
      return await new Promise((resolve, reject) => {
        this.#pending.set(question.id, { resolve, reject });
        onAbort = () => {
          if (cancelled) Atomics.store(cancelled, 0, 1);
          const message = 'The encoding was aborted by its AbortSignal';
          reject(new Qwen2Error('aborted', message, { cause: signal?.reason }));
        };
        signal?.addEventListener('abort', onAbort, { once: true });
        if (signal?.aborted) onAbort();
      });
    } finally {
      signal?.removeEventListener('abort', onAbort);
      this.#pending.delete(question.id);
      if (this.#pending.size === 0) this.#worker.unref();
    }
  }

  async dispose(): Promise<void> {
    this.#end(new Qwen2Error('disposed', 'The tokenizer was disposed; load it again'));
    await this.#worker.terminate();
  }

  #settle(response: Response): void {
    if (response.kind === 'ready' || response.id === undefined) return;
    const pending = this.#pending.get(response.id);
    if (response.kind === 'done') pending?.resolve(response.result);
    else pending?.reject(new Qwen2Error(response.code, response.message));
  }

  #end(reason: Qwen2Error): void {
    this.#ended ??= reason;
    for (const { reject } of this.#pending.values()) reject(this.#ended);
  }
}

function brokenError(cause?: unknown): Qwen2Error {
  const why = cause instanceof Error ? `: ${cause.message}` : '';
  return new Qwen2Error('internal', `The tokenizer's thread ended unexpectedly${why}`, { cause });
}
