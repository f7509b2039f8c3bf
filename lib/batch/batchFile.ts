import type { Model } from '../generation/model.js';
import { type BatchOptions, type BatchProgress, type BatchRequest, generateBatch } from './generateBatch.js';
import { type BatchFiles, type NumberedRequest, RequestFile } from './requestFile.js';
import { openResults, type ResultFile } from './resultFile.js';
import { ResultLines } from './resultLine.js';

export interface BatchFileOptions extends BatchFiles, Omit<BatchOptions, 'onProgress'> {
  onProgress?: ((progress: BatchFileProgress) => void) | undefined;
}

export interface BatchFileProgress extends BatchProgress {
  /** Requests whose results were there already. */
  skipped: number;
  /** Lines that are no requests. */
  invalid: number;
  /** Lines of the input; undefined until they are counted, and of stdin. */
  total: number | undefined;
}

export const noProgress: BatchFileProgress = {
  finished: 0,
  failed: 0,
  running: 0,
  promptTokens: 0,
  completionTokens: 0,
  seconds: 0,
  skipped: 0,
  invalid: 0,
  total: undefined,
};

/**
 * Generates for the requests of a file. Each result is in the output file as soon as it is made, so that an interrupted run,
 * by whatever, is resumed by the same call: only what has no result is done, nothing twice.
 *
 * Memory: the ids of all requests, and what is running.
 *
 * @returns the last progress
 * @throws not_found, io_error, aborted; invalid_argument if another process writes to the output, or it holds something else
 */
export async function runBatchFile(model: Model, options: BatchFileOptions): Promise<BatchFileProgress> {
  return new BatchFile(model, options).run();
}

class BatchFile {
  readonly #model: Model;
  readonly #options: BatchFileOptions;
  readonly #requests: RequestFile;
  readonly #lines: ResultLines;
  /** Of the requests that run. */
  readonly #forms = new Map<string, Pick<NumberedRequest, 'form' | 'model'>>();
  #progress = noProgress;

  constructor(model: Model, options: BatchFileOptions) {
    this.#model = model;
    this.#options = options;
    this.#requests = new RequestFile(options);
    this.#lines = new ResultLines(model.hasTokenizer ? model.tokenizer : undefined);
  }

  async run(): Promise<BatchFileProgress> {
    const { results, done } = await openResults(this.#options.output);
    const counting = this.#requests.count().then((total) => this.#report({ total }));
    try {
      await this.#generate(results, done);
    } finally {
      await this.#requests.close();
      await results.close();
      await counting;
    }
    return this.#progress;
  }

  async #generate(results: ResultFile, done: ReadonlySet<string>): Promise<void> {
    const { signal, concurrency, batchInvariant } = this.#options;
    const onProgress = (progress: BatchProgress) => this.#report(progress);
    const options = { signal, concurrency, batchInvariant, onProgress };
    for await (const outcome of generateBatch(this.#model, this.#pending(done), options)) {
      const line = this.#forms.get(outcome.id)!;
      this.#forms.delete(outcome.id);
      await results.append(this.#lines.lineOf(line, outcome));
    }
  }

  async *#pending(done: ReadonlySet<string>): AsyncGenerator<BatchRequest> {
    const onOther = (what: 'skipped' | 'invalid') => this.#report({ [what]: this.#progress[what] + 1 });
    for await (const { request, form, model } of this.#requests.pending(done, onOther)) {
      this.#forms.set(request.id, { form, model });
      yield request;
    }
  }

  #report(changes: Partial<BatchFileProgress>): void {
    this.#progress = { ...this.#progress, ...changes };
    this.#options.onProgress?.(this.#progress);
  }
}
