import { readFile, stat } from 'node:fs/promises';
import { Qwen2Error } from '../native/errors.js';

/** Configuration files are a few kilobytes; a larger file is not one, and parsing it would hold up the event loop. */
const maxBytes = 4 << 20;

/**
 * Parses a small JSON file.
 *
 * @param optional return undefined if there is no such file
 * @throws not_found, io_error; invalid_checkpoint if it is not JSON, or too large to be a configuration
 */
export async function readJson(path: string, optional = false): Promise<unknown> {
  let text: string;
  try {
    const { size } = await stat(path);
    if (size > maxBytes)
      throw new Qwen2Error(
        'invalid_checkpoint',
        `${path} has ${size} bytes; a configuration file has at most ${maxBytes}`,
      );
    text = await readFile(path, 'utf8');
  } catch (cause) {
    if (cause instanceof Qwen2Error) throw cause;
    const { code, message } = cause as NodeJS.ErrnoException;
    if (code === 'ENOENT' && optional) return undefined;
    if (code === 'ENOENT') throw new Qwen2Error('not_found', `There is no file ${path}`, { cause });
    throw new Qwen2Error('io_error', `${path} can't be read: ${message}`, { cause });
  }
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new Qwen2Error('invalid_checkpoint', `${path} is not JSON: ${(cause as Error).message}`, { cause });
  }
}

interface NumberRange {
  /** Used where the field is absent or null; without it the field must be there. */
  fallback?: number;
  min?: number;
  max?: number;
  integer?: boolean;
}

/** A JSON object whose fields are read one by one, each with its type and range checked. */
export class JsonFields {
  readonly #object: Readonly<Record<string, unknown>>;
  readonly #where: string;

  /** @param where what messages call the object: a path, or a path and a field of it */
  constructor(value: unknown, where: string) {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new Qwen2Error('invalid_checkpoint', `${where} must be a JSON object; found ${describe(value)}`);
    this.#object = value as Record<string, unknown>;
    this.#where = where;
  }

  /** The raw value; null counts as absent, as Python's None does in these files. */
  value(name: string): unknown {
    return Object.hasOwn(this.#object, name) ? (this.#object[name] ?? undefined) : undefined;
  }

  get isEmpty(): boolean {
    return Object.keys(this.#object).length === 0;
  }

  /** Whether the field is there and null: said to be nothing, which is not the same as left out. */
  isNull(name: string): boolean {
    return Object.hasOwn(this.#object, name) && this.#object[name] === null;
  }

  integer(name: string, range: NumberRange = {}): number {
    return this.number(name, { min: 1, max: 2 ** 31 - 1, ...range, integer: true });
  }

  number(name: string, { fallback, min = 0, max = Number.MAX_VALUE, integer = false }: NumberRange = {}): number {
    const value = this.value(name) ?? fallback;
    if (typeof value === 'number' && value >= min && value <= max && (!integer || Number.isInteger(value)))
      return value;
    const range = max === Number.MAX_VALUE ? `≥ ${min}` : `from ${min} to ${max}`;
    throw this.wrong(name, `${integer ? 'a whole number' : 'a number'} ${range}`);
  }

  boolean(name: string, fallback: boolean): boolean {
    const value = this.value(name) ?? fallback;
    if (typeof value === 'boolean') return value;
    throw this.wrong(name, 'true or false');
  }

  text(name: string, fallback?: string): string {
    const value = this.value(name) ?? fallback;
    if (typeof value === 'string') return value;
    throw this.wrong(name, 'a string');
  }

  /** A field that holds an object; undefined if it is absent. */
  object(name: string): JsonFields | undefined {
    const value = this.value(name);
    return value === undefined ? undefined : new JsonFields(value, `${this.#where}: ${name}`);
  }

  /** One token id, or a list of them. Undefined if absent. */
  tokenIds(name: string): number[] | undefined {
    const value = this.value(name);
    if (value === undefined) return undefined;
    const ids: unknown[] = Array.isArray(value) ? value : [value];
    const isId = (id: unknown): id is number =>
      typeof id === 'number' && Number.isInteger(id) && id >= 0 && id < 2 ** 31;
    if (ids.length <= maxTokenIds && ids.every(isId)) return ids;
    throw this.wrong(name, 'a token id, or a list of them');
  }

  wrong(name: string, expected: string): Qwen2Error {
    return new Qwen2Error(
      'invalid_checkpoint',
      `${this.#where}: ${name} is ${describe(this.value(name))}; expected ${expected}`,
    );
  }
}

/** More end tokens than this are damage. */
const maxTokenIds = 1000;

/** A value, short enough for a message. Safe for any nesting: damaged files have lists within lists without end. */
export function describe(value: unknown): string {
  if (value === undefined) return 'missing';
  const text = render(value, 3);
  return text.length <= 60 ? text : `${text.slice(0, 60)}…`;
}

function render(value: unknown, depth: number): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 100));
  if (typeof value !== 'object' || value === null) return String(value);
  const open = Array.isArray(value) ? '[' : '{';
  const close = Array.isArray(value) ? ']' : '}';
  if (depth === 0) return `${open}…${close}`;
  const entries = Object.entries(value).slice(0, 20);
  const label = (name: string) => (open === '[' ? '' : `${JSON.stringify(name.slice(0, 100))}:`);
  return `${open}${entries.map(([name, item]) => label(name) + render(item, depth - 1))}${close}`;
}
