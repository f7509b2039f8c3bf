import { type FileHandle, open, readFile, rm } from 'node:fs/promises';
import { setTimeout } from 'node:timers/promises';
import { Qwen2Error } from '../native/errors.js';
import { splitLines } from './lines.js';
import { idOf } from './resultLine.js';

/** How long a lock is waited for. */
const patienceMilliseconds = 5000;
/** How long a written line may be without having reached the disk itself. */
const syncMilliseconds = 500;

/**
 * A file of results, a line each, that grows as they are made. A line is written whole, at once: whatever ends the process,
 * lines that were appended are there, and what the disk was told to keep survives the machine. Opened again, it tells what
 * it has; a line that was cut off is removed.
 */
export class ResultFile {
  readonly path: string;
  readonly #file: FileHandle;
  #writing: Promise<void> = Promise.resolve();
  #pending: string[] = [];
  #syncing: Promise<void> | undefined;
  readonly #closing = new AbortController();
  #failure: unknown;

  private constructor(path: string, file: FileHandle) {
    this.path = path;
    this.#file = file;
  }

  /**
   * @param onLine called with every line that is there already
   * @throws io_error; invalid_argument if another process writes to it, or what `onLine` throws
   */
  static async open(path: string, onLine: (text: string, number: number) => void): Promise<ResultFile> {
    await lock(path);
    let file: FileHandle | undefined;
    try {
      file = await open(path, 'a+');
      if (!(await file.stat()).isFile())
        throw new Qwen2Error('invalid_argument', `${path} is no regular file; results go to one that can be resumed`);
      let whole = 0;
      for await (const { text, number, end, complete } of splitLines(
        file.createReadStream({ start: 0, autoClose: false }),
      )) {
        if (!complete) break;
        if (text !== '') onLine(text, number);
        whole = end;
      }
      await file.truncate(whole);
      return new ResultFile(path, file);
    } catch (cause) {
      await file?.close();
      await unlock(path);
      throw cause instanceof Qwen2Error ? cause : ioError(path, cause);
    }
  }

  /** Resolves when the line is written; it waits for those before it. @throws io_error */
  async append(line: string): Promise<void> {
    this.#pending.push(`${line}\n`);
    this.#writing = this.#writing.then(() => this.#write());
    await this.#writing;
    if (this.#failure !== undefined) throw ioError(this.path, this.#failure);
    this.#syncing ??= this.#syncSoon();
  }

  /** Waits until everything is on the disk. @throws io_error */
  async close(): Promise<void> {
    await this.#writing;
    this.#closing.abort();
    await this.#syncing;
    await this.#sync();
    await this.#file.close();
    await unlock(this.path);
    if (this.#failure !== undefined) throw ioError(this.path, this.#failure);
  }

  async #write(): Promise<void> {
    if (this.#pending.length === 0 || this.#failure !== undefined) return;
    const lines = Buffer.from(this.#pending.splice(0).join(''));
    try {
      for (let at = 0; at < lines.length; ) at += (await this.#file.write(lines, at)).bytesWritten;
    } catch (error) {
      this.#failure = error;
    }
  }

  /** Of many lines, once. */
  async #syncSoon(): Promise<void> {
    await setTimeout(syncMilliseconds, undefined, { signal: this.#closing.signal }).catch(() => {});
    this.#syncing = undefined;
    await this.#sync();
  }

  async #sync(): Promise<void> {
    try {
      await this.#file.datasync();
    } catch (error) {
      // A pipe, or a file system without it.
      if (!['EINVAL', 'EBADF', 'EROFS'].includes((error as NodeJS.ErrnoException).code ?? '')) this.#failure = error;
    }
  }
}

/** Opens a file of results to go on with it: the file, and the ids that it has. @throws as ResultFile.open */
export async function openResults(path: string): Promise<{ results: ResultFile; done: Set<string> }> {
  const done = new Set<string>();
  const results = await ResultFile.open(path, (text, number) => {
    const id = idOf(text);
    if (id === undefined)
      throw new Qwen2Error(
        'invalid_argument',
        `${path}, line ${number}, is no result of a batch; give another output, or remove the file`,
      );
    done.add(id);
  });
  return { results, done };
}

/** Paths that this process has open: the number of a process that was killed may be its own now. */
const openHere = new Set<string>();

function lockOf(path: string): string {
  return `${path}.lock`;
}

/**
 * Two processes that write results of the same input would do everything twice. A lock of a process that is gone is void; one
 * that was killed a moment ago takes another moment to be gone.
 */
async function lock(path: string): Promise<void> {
  const patience = performance.now() + patienceMilliseconds;
  for (;;) {
    try {
      const file = await open(lockOf(path), 'wx');
      await file.writeFile(`${process.pid}\n`);
      await file.close();
      openHere.add(path);
      return;
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'EEXIST') throw ioError(path, cause);
    }
    const owner = Number(await readFile(lockOf(path), 'utf8').catch(() => ''));
    if ((owner === process.pid && !openHere.has(path)) || !isAlive(owner)) await rm(lockOf(path), { force: true });
    else if (performance.now() < patience) await setTimeout(100);
    else
      throw new Qwen2Error(
        'invalid_argument',
        `${path} is being written by process ${owner}; wait for it, or give another output`,
      );
  }
}

async function unlock(path: string): Promise<void> {
  openHere.delete(path);
  await rm(lockOf(path), { force: true });
}

/** Of a lock that is being written, 0: somebody lives there. */
function isAlive(pid: number): boolean {
  if (pid === 0) return true;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}

function ioError(path: string, cause: unknown): Qwen2Error {
  return new Qwen2Error('io_error', `${path} can't be written: ${(cause as Error).message}`, { cause });
}
