import { type FileHandle, open, rm } from 'node:fs/promises';
import { Qwen2Error } from '../native/errors.js';
import { readLines } from './lines.js';
import { parseRequestLine, type RequestLine } from './requestLine.js';

/** One of `count` parts of a file: its lines `index`, `index + count`, …, where the first part and line have number 1. */
export interface FilePart {
  index: number;
  count: number;
}

/** What goes where. */
export interface BatchFiles {
  /** The path of the requests, a line each, gzipped or not; '-' is stdin. */
  input: string;
  /** Where results go, a line each, as requests end. What it has already is not done again. */
  output: string;
  /** Where lines that are no requests are told, with their numbers. Default: the output's name with '.errors.jsonl'. */
  errors?: string | undefined;
  /** A part of the input. */
  part?: FilePart | undefined;
}

/** A request, and the line it stands in. */
export interface NumberedRequest extends RequestLine {
  text: string;
  number: number;
}

/** The requests of a file. What is wrong with its lines goes to a file beside it. */
export class RequestFile {
  readonly #input: string;
  readonly #errors: ErrorsFile;
  readonly #part: FilePart;
  readonly #seen = new Set<string>();

  /** @throws invalid_argument for a part that there is none of */
  constructor({ input, output, errors = defaultErrorsPath(output), part = { index: 1, count: 1 } }: BatchFiles) {
    const { index, count } = part;
    if (!Number.isInteger(count) || !Number.isInteger(index) || index < 1 || index > count)
      throw new Qwen2Error('invalid_argument', `There is no part ${index} of ${count}; the first one is 1 of ${count}`);
    this.#input = input;
    this.#errors = new ErrorsFile(errors);
    this.#part = part;
  }

  /**
   * The requests without a result.
   *
   * @param done ids that have a result
   * @param onOther called with what else a line is
   * @throws not_found, io_error
   */
  async *pending(
    done: ReadonlySet<string>,
    onOther: (line: 'skipped' | 'invalid') => void,
  ): AsyncGenerator<NumberedRequest> {
    await this.#errors.clear();
    for await (const { text, number } of readLines(this.#input)) {
      if (!this.#isMine(text, number)) continue;
      let line: RequestLine;
      try {
        line = parseRequestLine(text, number);
        this.#requireNewId(line.request.id);
      } catch (error) {
        if (!(error instanceof Qwen2Error)) throw error;
        await this.#errors.append(number, error);
        onOther('invalid');
        continue;
      }
      if (done.has(line.request.id)) onOther('skipped');
      else yield { ...line, text, number };
    }
  }

  /** How many lines pending() goes through; undefined of stdin, and of a file that can't be read: that is said there. */
  async count(): Promise<number | undefined> {
    if (this.#input === '-') return undefined;
    let total = 0;
    try {
      for await (const { text, number } of readLines(this.#input)) if (this.#isMine(text, number)) total++;
    } catch {
      return undefined;
    }
    return total;
  }

  async close(): Promise<void> {
    await this.#errors.close();
  }

  #isMine(text: string, number: number): boolean {
    const { index, count } = this.#part;
    return (number - index) % count === 0 && text.trim() !== '';
  }

  #requireNewId(id: string): void {
    if (this.#seen.has(id))
      throw new Qwen2Error('invalid_argument', `an earlier line has the same id, ${JSON.stringify(id)}`);
    this.#seen.add(id);
  }
}

function defaultErrorsPath(output: string): string {
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
