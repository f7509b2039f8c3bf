import { type FileHandle, open, rm } from 'node:fs/promises';
import type { Model } from '../generation/model.js';
import { Qwen2Error } from '../native/errors.js';
import { type BatchProgress, type BatchRequest, generateBatch } from './generateBatch.js';
import { readLines } from './lines.js';
import { parseRequestLine, type RequestLine } from './requestLine.js';
import { ResultFile } from './resultFile.js';
import { idOf, ResultLines } from './resultLine.js';

export interface BatchFileOptions {
  /** The path of the requests, a line each, gzipped or not; '-' is stdin. */
  input: string;
  /** Where results go, a line each, as requests end. What it has already is not done again. */
  output: string;
  /** Where lines that are no requests are told, with their numbers. Default: the output's name with '.errors.jsonl'. */
  errors?: string | undefined;
  signal?: AbortSignal | undefined;
  concurrency?: number | undefined;
  /** Demands that results do not depend on what is computed beside them, as in `generateBatch`. */
  batchInvariant?: boolean | undefined;
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
  readonly #lines: ResultLines;
  /** Ids that have a result, and ids of the input so far. */
  readonly #done = new Set<string>();
  readonly #seen = new Set<string>();
  /** Of the requests that run. */
  readonly #forms = new Map<string, Pick<RequestLine, 'form' | 'model'>>();
  #progress: BatchFileProgress = {
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

  constructor(model: Model, options: BatchFileOptions) {
    this.#model = model;
    this.#options = options;
    this.#lines = new ResultLines(model.hasTokenizer ? model.tokenizer : undefined);
  }

  async run(): Promise<BatchFileProgress> {
    const {
      output,
      errors: errorsPath = defaultErrorsPath(output),
      signal,
      concurrency,
      batchInvariant,
    } = this.#options;
    const results = await ResultFile.open(output, (text, number) => this.#addDone(text, number));
    const errors = new ErrorsFile(errorsPath);
    const counting = this.#countLines();
    try {
      await errors.clear();
      const onProgress = (progress: BatchProgress) => this.#report(progress);
      for await (const outcome of generateBatch(this.#model, this.#requests(errors), {
        signal,
        concurrency,
        batchInvariant,
        onProgress,
      })) {
        const line = this.#forms.get(outcome.id)!;
        this.#forms.delete(outcome.id);
        await results.append(this.#lines.lineOf(line, outcome));
      }
    } finally {
      await errors.close();
      await results.close();
      await counting;
    }
    return this.#progress;
  }

  /** Beside the work: for the progress only. A file that can't be read says so where it is needed. */
  async #countLines(): Promise<void> {
    const { input } = this.#options;
    if (input === '-') return;
    let total = 0;
    try {
      for await (const { text } of readLines(input)) if (text.trim() !== '') total++;
    } catch {
      return;
    }
    this.#report({ total });
  }

  #addDone(text: string, number: number): void {
    const id = idOf(text);
    if (id === undefined)
      throw new Qwen2Error(
        'invalid_argument',
        `${this.#options.output}, line ${number}, is no result of a batch; give another output, or remove the file`,
      );
    this.#done.add(id);
  }

  /** The requests that have no result, as the batch takes them. */
  async *#requests(errors: ErrorsFile): AsyncGenerator<BatchRequest> {
    for await (const { text, number } of readLines(this.#options.input)) {
      if (text.trim() === '') continue;
      let line: RequestLine;
      try {
        line = parseRequestLine(text, number);
        if (this.#seen.has(line.request.id))
          throw new Qwen2Error(
            'invalid_argument',
            `an earlier line has the same id, ${JSON.stringify(line.request.id)}`,
          );
      } catch (error) {
        if (!(error instanceof Qwen2Error)) throw error;
        await errors.append(number, error);
        this.#report({ invalid: this.#progress.invalid + 1 });
        continue;
      }
      const { id } = line.request;
      this.#seen.add(id);
      if (this.#done.has(id)) {
        this.#report({ skipped: this.#progress.skipped + 1 });
        continue;
      }
      this.#forms.set(id, { form: line.form, model: line.model });
      yield line.request;
    }
  }

  #report(changes: Partial<BatchFileProgress>): void {
    this.#progress = { ...this.#progress, ...changes };
    this.#options.onProgress?.(this.#progress);
  }
}

export function defaultErrorsPath(output: string): string {
  return `${output.replace(/\.jsonl$/, '')}.errors.jsonl`;
}

/** What was wrong with lines of the input: made anew by every run, and not there where nothing was. */
class ErrorsFile {
  readonly #path: string;
  #file: FileHandle | undefined;

  constructor(path: string) {
    this.#path = path;
  }

  async clear(): Promise<void> {
    await rm(this.#path, { force: true });
  }

  async append(line: number, { code, message }: Qwen2Error): Promise<void> {
    this.#file ??= await open(this.#path, 'w');
    await this.#file.appendFile(`${JSON.stringify({ line, error: { code, message: `Line ${line}: ${message}` } })}\n`);
  }

  async close(): Promise<void> {
    await this.#file?.close();
  }
}
