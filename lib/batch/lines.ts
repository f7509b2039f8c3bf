import { createReadStream } from 'node:fs';
import { Readable } from 'node:stream';
import { createGunzip } from 'node:zlib';
import { Qwen2Error } from '../native/errors.js';

/** A line of a file. */
export interface Line {
  /** Without its end. */
  text: string;
  /** From 1 on. */
  number: number;
  /** Bytes of the file up to its end. */
  end: number;
  /** Whether a newline ends it: only the last one may lack that. */
  complete: boolean;
}

const newline = 0x0a;

/** The lines of a file, gzipped or not; '-' is stdin. @throws not_found, io_error */
export async function* readLines(path: string): AsyncGenerator<Line> {
  const stream = path === '-' ? process.stdin : createReadStream(path);
  try {
    yield* splitLines(await unzipped(stream));
  } catch (cause) {
    if (cause instanceof Qwen2Error) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new Qwen2Error('not_found', `There is no file ${path}`, { cause });
    throw new Qwen2Error('io_error', `${path} can't be read: ${message}`, { cause });
  } finally {
    stream.destroy();
  }
}

export async function* splitLines(chunks: AsyncIterable<Buffer>): AsyncGenerator<Line> {
  /** Of the line that is not complete: pieces, so that a long one is put together once. */
  let pieces: Buffer[] = [];
  let end = 0;
  let number = 0;
  const line = (complete: boolean): Line => {
    const text = Buffer.concat(pieces).toString('utf8').replace(/\r$/, '');
    pieces = [];
    return { text, number: ++number, end, complete };
  };
  for await (const chunk of chunks) {
    let start = 0;
    for (let at = chunk.indexOf(newline); at >= 0; at = chunk.indexOf(newline, start)) {
      pieces.push(chunk.subarray(start, at));
      end += at + 1 - start;
      start = at + 1;
      yield line(true);
    }
    if (start === chunk.length) continue;
    pieces.push(chunk.subarray(start));
    end += chunk.length - start;
  }
  if (pieces.length > 0) yield line(false);
}

/** The content of a stream that may be gzipped, as its first bytes tell. */
async function unzipped(stream: Readable): Promise<AsyncIterable<Buffer>> {
  const chunks = stream[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  const first = await chunks.next();
  const whole = Readable.from(
    (async function* () {
      if (first.done) return;
      yield first.value;
      for (let next = await chunks.next(); !next.done; next = await chunks.next()) yield next.value;
    })(),
  );
  const isGzip = !first.done && first.value[0] === 0x1f && first.value[1] === 0x8b;
  if (!isGzip) return whole;
  const gunzip = createGunzip();
  whole.on('error', (error) => gunzip.destroy(error));
  return whole.pipe(gunzip);
}
