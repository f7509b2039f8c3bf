import { type FileHandle, open } from 'node:fs/promises';
import { Qwen2Error } from '../native/errors.js';
import { describe } from './jsonFile.js';

/** Where a tensor's bytes are. */
export interface TensorEntry {
  name: string;
  dtype: SourceDType;
  shape: number[];
  /** The file. */
  path: string;
  /** Of its first byte, from the beginning of the file. */
  offset: number;
  byteLength: number;
}

/** The format's dtypes (github.com/huggingface/safetensors), by this package's names, with bytes an element. */
const dtypes = {
  BOOL: ['bool', 1],
  U8: ['u8', 1],
  I8: ['i8', 1],
  F8_E4M3: ['f8_e4m3', 1],
  F8_E5M2: ['f8_e5m2', 1],
  I16: ['i16', 2],
  U16: ['u16', 2],
  F16: ['f16', 2],
  BF16: ['bf16', 2],
  I32: ['i32', 4],
  U32: ['u32', 4],
  F32: ['f32', 4],
  I64: ['i64', 8],
  U64: ['u64', 8],
  F64: ['f64', 8],
} as const satisfies Record<string, readonly [string, number]>;

export type SourceDType = (typeof dtypes)[keyof typeof dtypes][0];

/**
 * Longest header that is parsed. A header of the 72B's shards has some 5 KB, and all its tensors in one would have 150 KB,
 * which take 1 ms; the format's own limit is 100 MB.
 */
const maxHeaderBytes = 4 << 20;
const prefixBytes = 8;

/**
 * Reads the header of a safetensors file: what tensors it holds, and where. None of their bytes are read.
 *
 * @throws not_found, io_error; invalid_checkpoint if the file is truncated, or breaks the format's rules: every byte
 *   belongs to exactly one tensor
 */
export async function readSafetensorsHeader(path: string): Promise<Map<string, TensorEntry>> {
  let file: FileHandle | undefined;
  try {
    file = await open(path);
    const { size } = await file.stat();
    const headerBytes = await readHeaderLength(file, path, size);
    const header = await readExactly(file, prefixBytes, headerBytes);
    return parseHeader(header, path, prefixBytes + headerBytes, size);
  } catch (cause) {
    if (cause instanceof Qwen2Error) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT') throw new Qwen2Error('not_found', `There is no file ${path}`, { cause });
    throw new Qwen2Error('io_error', `${path} can't be read: ${message}`, { cause });
  } finally {
    await file?.close();
  }
}

async function readHeaderLength(file: FileHandle, path: string, size: number): Promise<number> {
  if (size < prefixBytes)
    throw damaged(
      path,
      `it has ${size} bytes; a safetensors file begins with the ${prefixBytes} bytes of its header's length`,
    );
  const length = (await readExactly(file, 0, prefixBytes)).readBigUInt64LE();
  if (length > maxHeaderBytes || length < 2)
    throw damaged(
      path,
      `its header's length is ${length}; expected 2 to ${maxHeaderBytes} bytes. Is it a safetensors file?`,
    );
  const missing = prefixBytes + Number(length) - size;
  if (missing > 0) throw damaged(path, `it ends within its header: ${missing} bytes are missing`);
  return Number(length);
}

/** @throws an Error if the file ends before that, or what reading throws */
export async function readExactly(file: FileHandle, offset: number, bytes: number): Promise<Buffer> {
  const buffer = Buffer.alloc(bytes);
  for (let at = 0; at < bytes; ) {
    const { bytesRead } = await file.read(buffer, at, bytes - at, offset + at);
    if (bytesRead === 0) throw new Error(`the file shrank while it was read`);
    at += bytesRead;
  }
  return buffer;
}

/**
 * @param header the JSON
 * @param dataStart where the tensors' bytes begin
 * @param size of the file
 */
function parseHeader(header: Buffer, path: string, dataStart: number, size: number): Map<string, TensorEntry> {
  const tensors = new Map<string, TensorEntry>();
  for (const [name, value] of Object.entries(parseObject(header, path))) {
    if (name !== '__metadata__') tensors.set(name, parseEntry(name, value, path, dataStart));
  }
  requireCovered([...tensors.values()], path, dataStart, size);
  return tensors;
}

function parseObject(header: Buffer, path: string): object {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(header);
    value = JSON.parse(text);
  } catch (cause) {
    throw new Qwen2Error('invalid_checkpoint', `${path}: its header is not JSON: ${(cause as Error).message}`, {
      cause,
    });
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw damaged(path, `its header is ${describe(value)}; expected an object`);
  if (countEntries(text) !== Object.keys(value).length)
    throw damaged(path, 'its header names a tensor twice, so that its bytes are ambiguous');
  return value;
}

/** The entries of a JSON object, told by its own colons: JSON.parse keeps only the last of those with the same name. */
function countEntries(json: string): number {
  let entries = 0;
  let depth = 0;
  let inString = false;
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (inString && c === '\\') i++;
    else if (c === '"') inString = !inString;
    else if (inString) continue;
    else if (c === '{' || c === '[') depth++;
    else if (c === '}' || c === ']') depth--;
    else if (c === ':' && depth === 1) entries++;
  }
  return entries;
}

function parseEntry(name: string, value: unknown, path: string, dataStart: number): TensorEntry {
  const wrong = (what: string) => damaged(path, `tensor ${describe(name)} ${what}`);
  if (typeof value !== 'object' || value === null) throw wrong(`is ${describe(value)}; expected an object`);
  const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>;
  if (typeof dtype !== 'string' || !Object.hasOwn(dtypes, dtype))
    throw wrong(`has the unknown dtype ${describe(dtype)}`);
  if (!isSizes(shape) || shape.length > 8) throw wrong(`has the shape ${describe(shape)}; expected whole numbers ≥ 0`);
  if (!isSizes(offsets) || offsets.length !== 2 || offsets[0]! > offsets[1]!)
    throw wrong(`has data_offsets ${describe(offsets)}; expected [begin, end]`);
  const [dtypeName, bytes] = dtypes[dtype as keyof typeof dtypes];
  const expected = shape.reduce((product, n) => product * n, bytes);
  const [begin, end] = offsets as [number, number];
  if (end - begin !== expected) throw wrong(`has ${end - begin} bytes; ${dtype} [${shape}] takes ${expected}`);
  return { name, dtype: dtypeName, shape, path, offset: dataStart + begin, byteLength: expected };
}

function isSizes(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((n) => Number.isSafeInteger(n) && n >= 0);
}

/** No overlap, no hole, nothing behind the last tensor, and nothing of it missing. */
function requireCovered(tensors: TensorEntry[], path: string, dataStart: number, size: number): void {
  tensors.sort((a, b) => a.offset - b.offset || a.byteLength - b.byteLength);
  let end = dataStart;
  for (const { name, offset, byteLength } of tensors) {
    if (offset !== end)
      throw damaged(
        path,
        `tensor ${describe(name)} begins ${Math.abs(offset - end)} bytes ${offset < end ? 'before' : 'after'} the end of the one before it`,
      );
    end += byteLength;
  }
  if (end > size) throw damaged(path, `it is truncated: ${end - size} of ${end} bytes are missing; download it again`);
  if (end < size) throw damaged(path, `${size - end} bytes follow its last tensor`);
}

function damaged(path: string, what: string): Qwen2Error {
  return new Qwen2Error('invalid_checkpoint', `${path}: ${what}`);
}
